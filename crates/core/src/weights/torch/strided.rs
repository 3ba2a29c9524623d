//! Views of a storage, in row-major order.

use super::value::View;

/// The elements of a view.
pub(super) fn count(view: &View) -> usize {
    view.shape.iter().product()
}

/// One past the last element that the view reads, from its offset.
fn extent(view: &View) -> Option<usize> {
    let mut last = 0usize;
    for (&size, &stride) in view.shape.iter().zip(&view.strides) {
        last = last.checked_add(size.checked_sub(1)?.checked_mul(stride)?)?;
    }
    last.checked_add(1)
}

/// Refuses a view that is not inside its storage, or has more elements than it: a line of text could otherwise ask for
/// any amount of memory.
pub(super) fn check(view: &View) -> Result<(), String> {
    let (shape, storage) = (&view.shape, &view.storage);
    if shape.len() != view.strides.len() {
        return Err(format!("a tensor of shape {shape:?} has strides {:?}", view.strides));
    }
    // Beside a zero, dimensions could be large enough for strides to overflow.
    let positive = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    if positive.is_none_or(|n| n > isize::MAX as usize) {
        return Err(format!("shape {shape:?} is too large"));
    }
    if count(view) == 0 {
        return Ok(());
    }
    let end = extent(view).and_then(|n| n.checked_add(view.offset));
    if end.is_none_or(|end| end > storage.len) {
        return Err(format!(
            "a tensor of shape {shape:?}, strides {:?} and offset {} leaves its storage `{}` of {} elements",
            view.strides, view.offset, storage.key, storage.len
        ));
    }
    if count(view) > storage.len {
        return Err(format!("a tensor of shape {shape:?} repeats a storage of {} elements", storage.len));
    }
    Ok(())
}

/// The bytes of the storage that hold the view: first byte and length.
pub(super) fn span(view: &View) -> (u64, usize) {
    if count(view) == 0 {
        return (0, 0);
    }
    let size = view.storage.element.size();
    let first = (view.storage.start + view.offset) as u64 * size as u64;
    (first, extent(view).unwrap_or(0) * size)
}

/// The elements of the view in row-major order, from the bytes of its [`span`].
pub(super) fn gather(view: &View, bytes: Vec<u8>) -> Vec<u8> {
    let size = view.storage.element.size();
    let n = count(view);
    let mut stride = 1;
    let contiguous = view.shape.iter().zip(&view.strides).rev().all(|(&d, &s)| {
        let fits = d == 1 || s == stride;
        stride *= d;
        fits
    });
    if contiguous || n == 0 {
        return bytes;
    }
    let mut out = Vec::with_capacity(n * size);
    let mut index = vec![0usize; view.shape.len()];
    let mut at = 0usize;
    for _ in 0..n {
        out.extend_from_slice(&bytes[at * size..][..size]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            at += view.strides[axis];
            if index[axis] < view.shape[axis] {
                break;
            }
            at -= view.strides[axis] * view.shape[axis];
            index[axis] = 0;
        }
    }
    out
}
