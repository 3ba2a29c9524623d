//! numpy's arrays in a pickle of their own (JAX, Haiku), whose elements are byte strings of the pickle itself.
//!
//! An array is a call of numpy's `_reconstruct`, which makes an empty one, and a state of shape, type and bytes; since
//! protocol 5 a call of `_frombuffer`; JAX's and dill's calls carry numpy's state. Protocol 2 has no byte strings: there the bytes
//! are characters of a text, and take two bytes of the file each where they are 128 and more.

use std::collections::HashMap;
use std::io::{BufRead, Seek};

use super::archive::Region;
use super::machine::{Machine, Read};
use super::strided;
use super::value::{Element, Global, Id, Node, Numpy, Storage, View};

/// A byte string or a text of the pickle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub start: u64,
    pub len: u64,
    /// Whether it is UTF-8.
    pub text: bool,
}

/// What is known of byte strings and of the arrays made of them.
#[derive(Debug, Default)]
pub(super) struct Arrays {
    /// Where values that are byte strings or texts lie.
    pub spans: HashMap<Id, Span>,
    /// The elements of arrays, by the keys of their storages.
    pub regions: HashMap<String, Region>,
}

/// Packages whose objects are skipped: settings, states of optimisers, kinds of trees. Nothing of them is run.
const SKIPPED: [&str; 7] = ["byol", "chex", "dill", "haiku", "jax", "jaxlib", "optax"];

/// BYOL's state, where its class is named and not described.
const BYOL: (&str, [&str; 5]) =
    ("_ByolExperimentState", ["online_params", "target_params", "online_state", "target_state", "opt_state"]);

/// What a name stands for beside those of PyTorch's files.
fn find(module: &str, name: &str) -> Option<Global> {
    let numpy =
        |part: &str| module.strip_prefix("numpy.core.").or(module.strip_prefix("numpy._core.")) == Some(part);
    Some(match (module, name) {
        ("numpy", "dtype") => Global::Numpy(Numpy::Type),
        (_, "_reconstruct") if numpy("multiarray") => Global::Numpy(Numpy::Empty),
        (_, "_frombuffer") if numpy("numeric") => Global::Numpy(Numpy::FromBuffer),
        ("_codecs", "encode") => Global::Numpy(Numpy::Encode),
        (_, "_reconstruct_array" | "reconstruct_device_array")
            if module.starts_with("jax.") || module.starts_with("jax._") =>
        {
            Global::Numpy(Numpy::OfState)
        }
        (_, "_create_array") if module.split('.').next() == Some("dill") => Global::Numpy(Numpy::OfState),
        (_, "_create_namedtuple") if module.split('.').next() == Some("dill") => {
            Global::Numpy(Numpy::NamedTuple)
        }
        ("haiku._src.data_structures", "FlatMapping" | "FlatMap" | "frozendict") => Global::Mapping,
        _ if module.split('.').next().is_some_and(|package| SKIPPED.contains(&package)) => Global::Opaque,
        _ => return None,
    })
}

/// The element type of a description of numpy's (`f4`); no type for objects.
fn element(code: &str) -> Option<Element> {
    Some(match code.trim_start_matches(['<', '=', '|']) {
        "f8" => Element::F64,
        "f4" => Element::F32,
        "f2" => Element::F16,
        "i8" => Element::I64,
        "i4" => Element::I32,
        "i2" => Element::I16,
        "i1" => Element::I8,
        "u1" => Element::U8,
        "b1" => Element::Bool,
        other => {
            let size = other.strip_prefix(['u', 'c', 'S', 'V', 'M', 'm'])?.parse::<usize>().ok()?;
            Element::Other(size)
        }
    })
}

impl<R: BufRead + Seek> Machine<'_, R> {
    /// Pushes what a name stands for, if it is one of these.
    pub(super) fn array_global(&mut self, module: &str, name: &str) -> Read<bool> {
        if name == BYOL.0 {
            let mut fields = Vec::new();
            for field in BYOL.1 {
                fields.push(self.made(Node::Text(field.to_string()))?);
            }
            self.push(Node::Record(fields))?;
            return Ok(true);
        }
        match find(module, name) {
            Some(global) => self.push(Node::Global(global)).map(|()| true),
            None => Ok(false),
        }
    }

    /// The value that a call of one of these functions gives.
    pub(super) fn array_call(&mut self, function: Numpy, arguments: &[Id]) -> Read<Node> {
        let few = || Err("a call of numpy's has too few arguments".to_string());
        match function {
            Numpy::Type => match arguments.first().map(|&id| self.node(id)) {
                Some(Node::Text(code)) if code.starts_with('>') => Err(BIG.into()),
                Some(Node::Text(code)) => Ok(element(code).map_or(Node::Opaque, Node::Type)),
                _ => Ok(Node::Opaque),
            },
            Numpy::Empty => Ok(Node::Empty),
            // A text whose characters are bytes; who uses it asks for its place.
            Numpy::Encode => {
                let span = arguments.first().and_then(|id| self.span(*id));
                match span {
                    Some(span) => Ok(Node::Bytes(span)),
                    None => Ok(Node::Opaque),
                }
            }
            Numpy::FromBuffer => {
                let &[data, kind, shape, ref order @ ..] = arguments else { return few() };
                let columns =
                    matches!(order.first().map(|&id| self.node(id)), Some(Node::Text(o)) if o == "F");
                self.array([shape, kind, data], columns)
            }
            Numpy::OfState => {
                let &[_, _, state, ..] = arguments else { return few() };
                self.of_state(state)
            }
            Numpy::NamedTuple => {
                let &[_, fields, ..] = arguments else { return few() };
                let Node::Tuple(fields) = self.node(fields) else { return few() };
                if fields.len() > 64 {
                    return Err(format!("{} fields of a tuple", fields.len()));
                }
                Ok(Node::Record(fields.clone()))
            }
        }
    }

    /// Gives the value on the stack a state, if it is an array or an element type: whether it was.
    pub(super) fn set_state(&mut self, state: Id) -> Read<bool> {
        match self.top()? {
            Node::Empty => {
                let made = self.of_state(state)?;
                *self.top()? = made;
                Ok(true)
            }
            Node::Type(_) => {
                let order = match self.node(state) {
                    Node::Tuple(parts) => parts.get(1).map(|&id| self.node(id)),
                    _ => None,
                };
                match order {
                    Some(Node::Text(order)) if order == ">" => Err(BIG.into()),
                    _ => Ok(true),
                }
            }
            _ => Ok(false),
        }
    }

    /// The array of a state: version (absent in old ones), shape, type, whether columns come first, bytes.
    fn of_state(&mut self, state: Id) -> Read<Node> {
        let Node::Tuple(parts) = self.node(state) else {
            return Err(format!("an array's state is {}", self.node(state).kind()));
        };
        let &[shape, kind, columns, data] = (match parts.len() {
            5 => &parts[1..],
            _ => &parts[..],
        }) else {
            return Err(format!("an array's state has {} parts", parts.len()));
        };
        let columns = matches!(self.node(columns), Node::Bool(true) | Node::Int(1));
        self.array([shape, kind, data], columns)
    }

    fn array(&mut self, [shape, kind, data]: [Id; 3], columns: bool) -> Read<Node> {
        let element = match self.node(kind) {
            Node::Type(element) => *element,
            // Objects and records.
            _ => return Ok(Node::Opaque),
        };
        let shape = self.extents(shape)?;
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let len = len.filter(|&n| n <= isize::MAX as usize / element.size().max(1));
        let Some(len) = len else { return Err(format!("shape {shape:?} is too large")) };
        let region = match (self.span(data), len) {
            (Some(span), _) => Region { start: span.start, len: span.len, text: span.text },
            // Without elements there may be no byte string either.
            (None, 0) => Region { start: 0, len: 0, text: false },
            (None, _) => return Err(format!("the elements of an array are {}", self.node(data).kind())),
        };
        let key = region.start.to_string();
        let mut strides = vec![1usize; shape.len()];
        let axes: Vec<usize> =
            if columns { (0..shape.len()).collect() } else { (0..shape.len()).rev().collect() };
        for pair in axes.windows(2) {
            strides[pair[1]] = strides[pair[0]].saturating_mul(shape[pair[0]].max(1));
        }
        let storage = Storage { key: key.clone(), element, whole: len, start: 0, len };
        let view = View { storage, offset: 0, shape, strides };
        strided::check(&view)?;
        if let Some(arrays) = &mut self.arrays {
            arrays.regions.insert(key, region);
        }
        self.counted(view)
    }

    /// Where a byte string lies.
    fn span(&self, id: Id) -> Option<Span> {
        match self.node(id) {
            Node::Bytes(span) => Some(*span),
            _ => self.arrays.as_ref()?.spans.get(&id).copied(),
        }
    }
}

#[cfg(test)]
mod tests;

const BIG: &str = "the file's numbers are not little-endian";

/// The bytes that are the characters of a text (ISO 8859-1).
pub(super) fn characters(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            0..0x80 => bytes.push(byte),
            0xc2 | 0xc3 => bytes.push((byte << 6) | (rest.next()? & 0x3f)),
            _ => return None,
        }
    }
    Some(bytes)
}
