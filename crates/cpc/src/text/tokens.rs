//! From text to words.
//!
//! 1. Letters become small ones, `’` and `‘` become `'`, and `_` (emphasis in plain-text books) becomes a space.
//! 2. A run of letters and digits is a word.
//! 3. An apostrophe in front of `s`, `d`, `m`, `ll`, `re` or `ve` begins a word that ends with those letters, and `n't`
//!    behind a letter is a word of its own: `don't` is `do n't`, `it's` is `it 's`. Other apostrophes are signs.
//! 4. Every other sign that is no space is a word; a run of the same sign is one (`--`, `...`).
//!
//! Words joined by spaces give the same words again, and sets that are cut like the Penn Treebank stay as they are, but
//! for compounds with hyphens (`so-so` is `so - so`).

/// What may follow an apostrophe within a word of its own.
const CLITICS: [&str; 6] = ["s", "d", "m", "ll", "re", "ve"];

/// The words of a text, in order.
pub fn tokenise(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().flat_map(char::to_lowercase).map(plain).collect();
    let mut words: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some(&c) = characters.get(at) {
        let end = if c.is_alphanumeric() {
            let end = run(&characters, at, char::is_alphanumeric);
            // `don't`: the n belongs to what follows; `n't` itself stays.
            if characters[end - 1] == 'n' && negates(&characters, end) {
                if end - 1 > at {
                    words.push(characters[at..end - 1].iter().collect());
                }
                words.push("n't".to_string());
                at = end + 2;
                continue;
            }
            end
        } else if c.is_whitespace() {
            at += 1;
            continue;
        } else if let Some(end) = clitic(&characters, at) {
            end
        } else {
            words.push(c.to_string());
            at = run(&characters, at, |other| other == c);
            continue;
        };
        words.push(characters[at..end].iter().collect());
        at = end;
    }
    words
}

fn plain(c: char) -> char {
    match c {
        '\u{2019}' | '\u{2018}' => '\'',
        '_' => ' ',
        other => other,
    }
}

/// The end of the run of characters that `f` says yes to.
fn run(characters: &[char], at: usize, f: impl Fn(char) -> bool) -> usize {
    characters[at..].iter().position(|&c| !f(c)).map_or(characters.len(), |length| at + length)
}

/// Whether `'t` stands here and ends.
fn negates(characters: &[char], at: usize) -> bool {
    characters.get(at) == Some(&'\'')
        && characters.get(at + 1) == Some(&'t')
        && !characters.get(at + 2).is_some_and(|c| c.is_alphanumeric())
}

/// The end of the apostrophe and what belongs to it, if it is one of [`CLITICS`].
fn clitic(characters: &[char], at: usize) -> Option<usize> {
    if characters[at] != '\'' {
        return None;
    }
    let end = run(characters, at + 1, char::is_alphanumeric);
    let letters: String = characters[at + 1..end].iter().collect();
    CLITICS.contains(&letters.as_str()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_signs() {
        let cut = |text: &str| tokenise(text).join(" ");
        assert_eq!(cut("Don\u{2019}t go -- it's MINE, 'tis so!"), "do n't go - it 's mine , ' tis so !");
        assert_eq!(cut("They'll  say \"no\"..."), "they 'll say \" no \" .");
        assert_eq!(cut("_So-so_: 1/2x (3.5)"), "so - so : 1 / 2x ( 3 . 5 )");
        assert_eq!(cut("Élan vital"), "élan vital");
        assert_eq!(cut("can't won't n't 't o'clock"), "ca n't wo n't n't ' t o ' clock");
        assert!(tokenise(" \t_ ").is_empty());
    }

    #[test]
    fn cutting_twice_changes_nothing() {
        for text in [
            "it does n't show the complete file names of mp3s with really long names ; . [ sorry if i 'm just",
            "de niro's right-hand goombah .",
            "''quotes'' `` and '' -- ??",
        ] {
            let once = tokenise(text);
            assert_eq!(tokenise(&once.join(" ")), once);
        }
    }
}
