use contrastive_core::rng::Purpose;

use super::*;

const L: usize = 9;
const K: usize = 3;
const NAMES: [u64; 5] = [40, 7, 11, 3, 25];
const GROUPS: [u32; 5] = [2, 1, 2, 2, 1];

const FRAMES: Frames<'static> = Frames { length: L, names: &NAMES, groups: Some(&GROUPS) };

fn anchors() -> Vec<Anchor> {
    let at = |sequence| (0..L - K).map(move |time| Anchor { sequence, time });
    (0..NAMES.len()).flat_map(at).collect()
}

fn key(step: u64) -> Key {
    Key::new(1, Purpose::Negatives).epoch(step)
}

fn candidates(scheme: Scheme, count: Option<usize>, step: u64) -> Candidates {
    Candidates::new(&NegativesConfig { scheme, count }, &FRAMES, &anchors(), K, key(step))
        .expect("candidates")
}

/// The negatives of every anchor, in the order of frames or of draws.
fn negatives(scheme: Scheme, count: Option<usize>) -> Vec<(Anchor, Vec<u32>)> {
    let anchors = anchors();
    let own = |anchor: &Anchor| (anchor.sequence * L + anchor.time + K) as u32;
    let rows: Vec<Vec<u32>> = match candidates(scheme, count, 0) {
        Candidates::Pool { positive, excluded } => anchors
            .iter()
            .enumerate()
            .map(|(row, anchor)| {
                assert_eq!(positive[row], own(anchor));
                let out = |j: u32| excluded.as_ref().is_some_and(|e| e[row * 5 * L + j as usize]);
                (0..5 * L as u32).filter(|&j| j != positive[row] && !out(j)).collect()
            })
            .collect(),
        Candidates::Drawn { index, count } => index
            .chunks_exact(1 + count)
            .zip(&anchors)
            .map(|(row, anchor)| {
                assert_eq!(row[0], own(anchor));
                row[1..].to_vec()
            })
            .collect(),
    };
    assert_eq!(rows.len(), anchors.len());
    anchors.into_iter().zip(rows).collect()
}

const TABLE_2: [Scheme; 5] = [
    Scheme::MixedSpeaker,
    Scheme::SameSpeaker,
    Scheme::MixedSpeakerExcludingCurrent,
    Scheme::SameSpeakerExcludingCurrent,
    Scheme::CurrentSequence,
];

/// Whether a frame of sequence `other` may be a negative of a prediction in `own`.
fn may(scheme: Scheme, own: usize, other: usize) -> bool {
    match scheme {
        Scheme::MixedSpeaker => true,
        Scheme::SameSpeaker => GROUPS[own] == GROUPS[other],
        Scheme::MixedSpeakerExcludingCurrent => own != other,
        Scheme::SameSpeakerExcludingCurrent => own != other && GROUPS[own] == GROUPS[other],
        _ => own == other,
    }
}

#[test]
fn schemes_keep_what_they_promise() {
    for scheme in TABLE_2 {
        for (anchor, all) in negatives(scheme, None) {
            let expected: Vec<u32> = (0..5 * L)
                .filter(|&j| j != anchor.sequence * L + anchor.time + K)
                .filter(|&j| may(scheme, anchor.sequence, j / L))
                .map(|j| j as u32)
                .collect();
            assert_eq!(all, expected, "{scheme:?} {anchor:?}");
        }
        let mut hit = [false; 5 * L];
        for (anchor, drawn) in negatives(scheme, Some(40)) {
            assert_eq!(drawn.len(), 40);
            for &j in &drawn {
                let j = j as usize;
                assert_ne!(j, anchor.sequence * L + anchor.time + K, "{scheme:?}: the true target");
                assert!(may(scheme, anchor.sequence, j / L), "{scheme:?} {anchor:?}: frame {j}");
                hit[j] = true;
            }
        }
        assert!(hit.iter().all(|hit| *hit), "{scheme:?} never draws some frame");
    }
}

#[test]
fn implementations_draw_as_published() {
    for (anchor, drawn) in negatives(Scheme::SameTime, None) {
        let expected: Vec<u32> = (0..5)
            .filter(|&sequence| sequence != anchor.sequence)
            .map(|sequence| (sequence * L + anchor.time + K) as u32)
            .collect();
        assert_eq!(drawn, expected);
    }
    // One draw for each target, whatever the step that predicts it.
    let config = NegativesConfig { scheme: Scheme::AllFrames, count: Some(10) };
    let row = |k: usize, time: usize| {
        let anchor = [Anchor { sequence: 2, time }];
        match Candidates::new(&config, &FRAMES, &anchor, k, key(0)).expect("candidates") {
            Candidates::Drawn { index, .. } => index,
            Candidates::Pool { .. } => panic!("drawn"),
        }
    };
    assert_eq!(row(1, 5), row(3, 3));
    assert_ne!(row(1, 5), row(1, 4));
    // Blind: with so many draws the true target is among its own negatives somewhere.
    let own = |(a, drawn): &(Anchor, Vec<u32>)| drawn.contains(&((a.sequence * L + a.time + K) as u32));
    assert!(negatives(Scheme::AllFrames, Some(40)).iter().any(own));
}

#[test]
fn draws_depend_on_step_and_sample_alone() -> Result<()> {
    let scheme = Scheme::CurrentSequence;
    assert_eq!(candidates(scheme, Some(7), 4), candidates(scheme, Some(7), 4));
    assert_ne!(candidates(scheme, Some(7), 4), candidates(scheme, Some(7), 5));
    // The same sequence alone on a rank: the same times.
    let config = NegativesConfig { scheme, count: Some(7) };
    let alone = Frames { length: L, names: &NAMES[2..3], groups: None };
    let anchors: Vec<Anchor> = (0..L - K).map(|time| Anchor { sequence: 0, time }).collect();
    let Candidates::Drawn { index: part, .. } = Candidates::new(&config, &alone, &anchors, K, key(4))? else {
        panic!("drawn")
    };
    let Candidates::Drawn { index: whole, .. } = candidates(scheme, Some(7), 4) else { panic!("drawn") };
    let rows = 8 * (L - K);
    let shifted: Vec<u32> = part.iter().map(|j| j + 2 * L as u32).collect();
    assert_eq!(shifted, whole[2 * rows..3 * rows]);
    Ok(())
}

#[test]
fn impossible_schemes_are_refused() {
    let text = |scheme, frames: &Frames<'_>| {
        let config = NegativesConfig { scheme, count: None };
        let anchors = [Anchor { sequence: 0, time: 0 }];
        Candidates::new(&config, frames, &anchors, K, key(0)).expect_err("refused").to_string()
    };
    let one = Frames { length: L, names: &NAMES[..1], groups: Some(&GROUPS[..1]) };
    assert!(text(Scheme::MixedSpeakerExcludingCurrent, &one).contains("no negatives"));
    assert!(text(Scheme::SameTime, &one).contains("two sequences"));
    let nameless = Frames { groups: None, ..FRAMES };
    assert!(text(Scheme::SameSpeaker, &nameless).contains("speaker"));
    // Speaker 2 has three sequences, but not in this batch.
    let mixed = Frames { length: L, names: &NAMES[..2], groups: Some(&GROUPS[..2]) };
    assert!(text(Scheme::SameSpeakerExcludingCurrent, &mixed).contains("sequence 0"));
    let config = |scheme, count| NegativesConfig { scheme, count }.check("negatives").is_ok();
    assert!(!config(Scheme::AllFrames, None) && !config(Scheme::MixedSpeaker, Some(0)));
    assert!(!config(Scheme::SameTime, Some(3)) && config(Scheme::AllFrames, Some(10)));
}
