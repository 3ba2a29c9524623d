//! FLAC files, by symphonia.

use std::io::Cursor;

use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;

use super::{Sound, mix};

pub(super) fn decode(bytes: Vec<u8>) -> Result<Sound, String> {
    let fault = |e: symphonia::core::errors::Error| format!("FLAC: {e}");
    let stream = MediaSourceStream::new(Box::new(Cursor::new(bytes)), Default::default());
    let (hint, options) = (Hint::new(), FormatOptions::default());
    let mut format = symphonia::default::get_probe()
        .probe(&hint, stream, options, MetadataOptions::default())
        .map_err(fault)?;
    let track = format.default_track(TrackType::Audio).ok_or("FLAC: no sound in it")?;
    let parameters = track.codec_params.as_ref().and_then(|p| p.audio()).ok_or("FLAC: no sound in it")?;
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map_err(fault)?;
    let id = track.id;
    let (mut samples, mut rate, mut part) = (Vec::new(), 0, Vec::new());
    while let Some(packet) = format.next_packet().map_err(fault)? {
        if packet.track_id != id {
            continue;
        }
        let decoded = decoder.decode(&packet).map_err(fault)?;
        rate = decoded.spec().rate();
        let channels = decoded.spec().channels().count();
        part.resize(decoded.samples_interleaved(), 0f32);
        decoded.copy_to_slice_interleaved(&mut part);
        samples.extend(mix(&part, channels));
    }
    Ok(Sound { samples, rate })
}
