//! The parts of protocol buffers that checkpoints use.

/// A number of one to ten bytes, seven bits each, the lowest first.
pub(super) fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for place in 0..10 {
        let (&byte, rest) = bytes.split_first().ok_or("the end within a number")?;
        *bytes = rest;
        if place == 9 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number of more than 64 bits".into())
}

/// A field of a message.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of four or eight bytes; not looked at.
    Fixed,
}

/// The fields of a message in order, each with its number.
pub(super) fn fields(mut bytes: &[u8]) -> Result<Vec<(u64, Value<'_>)>, String> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let mut take = |n: u64| {
            let n = usize::try_from(n).ok().filter(|n| *n <= bytes.len());
            let (taken, rest) = bytes.split_at(n.ok_or("a field leaves its message")?);
            bytes = rest;
            Ok::<_, String>(taken)
        };
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => take(8).map(|_| Value::Fixed)?,
            5 => take(4).map(|_| Value::Fixed)?,
            2 => {
                let length = varint(&mut bytes)?;
                let n = usize::try_from(length).ok().filter(|n| *n <= bytes.len());
                let (taken, rest) = bytes.split_at(n.ok_or("a field leaves its message")?);
                bytes = rest;
                Value::Bytes(taken)
            }
            kind => return Err(format!("a field of kind {kind}")),
        };
        found.push((tag >> 3, value));
    }
    Ok(found)
}
