//! NIST SPHERE files of plain samples, as the Linguistic Data Consortium gives out TIMIT.
//!
//! A text header of 1024 bytes (`NIST_1A`, the length, then lines `name -type value` up to `end_head`), then samples.

use super::{Sound, mix};

pub(super) fn decode(bytes: &[u8]) -> Result<Sound, String> {
    let fault = |reason: &str| format!("NIST SPHERE: {reason}");
    // The first two lines are 8 bytes each: the name of the format and the length of the header.
    let length = bytes.get(8..16).and_then(|text| std::str::from_utf8(text).ok());
    let length = length.and_then(|text| text.trim().parse::<usize>().ok());
    let length =
        length.filter(|length| *length <= bytes.len()).ok_or_else(|| fault("no length of the header"))?;
    let header = String::from_utf8_lossy(&bytes[..length]);
    let field = |name: &str| {
        let mut lines = header.lines().take_while(|line| line.trim() != "end_head");
        lines.find_map(|line| line.strip_prefix(name)?.split_whitespace().nth(1).map(str::to_string))
    };
    let number = |name: &str, default: Option<usize>| match field(name) {
        Some(text) => text.parse().map_err(|_| fault(&format!("{name} is `{text}`"))),
        None => default.ok_or_else(|| fault(&format!("no {name}"))),
    };
    let rate = number("sample_rate", None)?;
    let channels = number("channel_count", Some(1))?;
    let size = number("sample_n_bytes", Some(2))?;
    let coding = field("sample_coding").unwrap_or_else(|| "pcm".to_string());
    let order = field("sample_byte_format").unwrap_or_else(|| "01".to_string());
    if coding != "pcm" || size != 2 || channels == 0 {
        return Err(fault(&format!(
            "{channels} channels of {size} bytes, coded as {coding}: only 16-bit pcm is read"
        )));
    }
    let value: fn([u8; 2]) -> i16 = match order.as_str() {
        "01" => i16::from_le_bytes,
        "10" => i16::from_be_bytes,
        other => return Err(fault(&format!("sample_byte_format is `{other}`"))),
    };
    let (pairs, _) = bytes[length..].as_chunks::<2>();
    let samples: Vec<f32> = pairs.iter().map(|pair| f32::from(value(*pair)) / 32_768.0).collect();
    let rate = u32::try_from(rate).map_err(|_| fault(&format!("sample_rate is {rate}")))?;
    Ok(Sound { samples: mix(&samples, channels), rate })
}
