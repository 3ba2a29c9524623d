//! The machine that reads a pickle as data.
//!
//! A pickle is a program for a stack machine that may call any function of Python. This one knows the opcodes that build
//! values, and a call is only ever read: its function must be on the list of [`super::globals`].

use std::collections::HashMap;

use super::globals::find;
use super::value::{Global, Id, Node, Storage, View};

/// A whole pickle.
pub(super) struct Pickle {
    pub nodes: Vec<Node>,
    pub root: Id,
    /// Bytes that it took.
    pub length: usize,
}

/// Values a pickle may have; a training checkpoint has some ten thousand.
const MOST_NODES: usize = 1 << 20;

/// Tensors a pickle may have; each is a dozen values that can be named again in a few bytes.
const MOST_TENSORS: usize = 1 << 16;

/// Characters of a storage's key, which every view of it repeats.
const LONGEST_KEY: usize = 64;

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Items that calls have copied: a list can be copied again and again in a few bytes.
    copied: usize,
    tensors: usize,
    /// Further names (`module.name`) whose objects are skipped.
    skipped: &'a [String],
}

type Read<T> = Result<T, String>;

/// Reads the pickle at the beginning of `bytes`.
pub(super) fn read(bytes: &[u8], skipped: &[String]) -> Read<Pickle> {
    let mut machine = Machine {
        bytes,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        copied: 0,
        tensors: 0,
        skipped,
    };
    let root = machine.run().map_err(|e| format!("pickle, byte {}: {e}", machine.at))?;
    Ok(Pickle { nodes: machine.nodes, root, length: machine.at })
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Read<Id> {
        loop {
            let op = self.byte()?;
            match op {
                b'.' => return self.pop(),
                _ => self.step(op)?,
            }
        }
    }

    fn step(&mut self, op: u8) -> Read<()> {
        match op {
            0x80 => {
                let version = self.byte()?;
                if !(1..=5).contains(&version) {
                    return Err(format!("protocol {version} is not known"));
                }
            }
            // Frame: a hint for readers of streams.
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.above_mark()?),
            b'2' => {
                let top = *self.stack.last().ok_or("the stack is empty")?;
                self.stack.push(top);
            }
            b'N' => self.push(Node::Opaque)?,
            0x88 | 0x89 => self.push(Node::Bool(op == 0x88))?,
            b'G' => {
                self.take(8)?;
                self.push(Node::Opaque)?;
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Node::Int(value.into()))?;
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Node::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Node::Int(value.into()))?;
            }
            0x8a | 0x8b => {
                let length = if op == 0x8a { self.byte()?.into() } else { self.length4()? };
                let bytes = self.take(length)?;
                self.push(long(bytes))?;
            }
            b'U' | b'C' | 0x8c | b'T' | b'B' | b'X' | 0x8d | 0x8e | 0x96 => {
                let length = match op {
                    b'U' | b'C' | 0x8c => self.byte()?.into(),
                    b'T' | b'B' | b'X' => self.length4()?,
                    _ => self.length8()?,
                };
                let bytes = self.take(length)?;
                match (op, std::str::from_utf8(bytes)) {
                    // Python 2 wrote its texts as bytes.
                    (b'U' | b'T' | 0x8c | b'X' | 0x8d, Ok(text)) => {
                        self.push(Node::Text(text.to_string()))?
                    }
                    (0x8c | b'X' | 0x8d, Err(_)) => return Err("a text is not UTF-8".into()),
                    _ => self.push(Node::Opaque)?,
                }
            }
            b']' => self.push(Node::List(Vec::new()))?,
            b')' => self.push(Node::Tuple(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            0x8f => self.push(Node::Opaque)?,
            b'l' | b't' | b'd' | 0x91 => {
                let items = self.above_mark()?;
                let node = match op {
                    b'l' => Node::List(items),
                    b't' => Node::Tuple(items),
                    b'd' => Node::Dict(pairs(&items)?),
                    _ => Node::Opaque,
                };
                self.push(node)?;
            }
            0x85..=0x87 => {
                let count = usize::from(op - 0x84);
                let mut items = (0..count).map(|_| self.pop()).collect::<Read<Vec<Id>>>()?;
                items.reverse();
                self.push(Node::Tuple(items))?;
            }
            b'a' | b'e' | 0x90 => {
                let items = if op == b'a' { vec![self.pop()?] } else { self.above_mark()? };
                match self.top()? {
                    Node::List(list) if op != 0x90 => list.extend(items),
                    Node::Opaque => {}
                    other => return Err(format!("{} takes no items", other.kind())),
                }
            }
            b's' | b'u' => {
                let items = if op == b'u' {
                    self.above_mark()?
                } else {
                    let value = self.pop()?;
                    vec![self.pop()?, value]
                };
                let items = pairs(&items)?;
                match self.top()? {
                    Node::Dict(dict) => dict.extend(items),
                    Node::Opaque => {}
                    other => return Err(format!("{} takes no keys", other.kind())),
                }
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Node::Text(module), Node::Text(name)) = (self.node(module), self.node(name)) else {
                    return Err("the name of a global is no text".into());
                };
                let (module, name) = (module.clone(), name.clone());
                self.global(&module, &name)?;
            }
            b'R' | 0x81 | 0x92 => {
                if op == 0x92 {
                    self.pop()?;
                }
                let (arguments, function) = (self.pop()?, self.pop()?);
                let made = self.made_by(function, arguments)?;
                match made {
                    Made::New(node) => self.push(node)?,
                    Made::Old(id) => self.stack.push(id),
                }
            }
            // Attributes of an object: an ordered dictionary's `_metadata`, a namespace's fields.
            b'b' => {
                self.pop()?;
                match self.top()? {
                    Node::Dict(_) | Node::Opaque | Node::Tensor(_) => {}
                    other => return Err(format!("{} has no attributes", other.kind())),
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let node = self.persistent(id)?;
                self.push(node)?;
            }
            b'q' | b'r' | 0x94 => {
                let place = match op {
                    b'q' => self.byte()?.into(),
                    b'r' => u32::from_le_bytes(self.array()?),
                    _ => self.memo.len() as u32,
                };
                let top = *self.stack.last().ok_or("the stack is empty")?;
                self.memo.insert(place, top);
            }
            b'h' | b'j' => {
                let place = if op == b'h' { self.byte()?.into() } else { u32::from_le_bytes(self.array()?) };
                let id = *self.memo.get(&place).ok_or_else(|| format!("nothing is kept as {place}"))?;
                self.stack.push(id);
            }
            _ => return Err(format!("opcode {op:#04x} is not on the list")),
        }
        Ok(())
    }

    fn byte(&mut self) -> Read<u8> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..count).ok_or_else(|| format!("ends {} bytes early", count - rest.len()))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn length4(&mut self) -> Read<usize> {
        // As a signed number it would be negative beyond this.
        let length = u32::from_le_bytes(self.array()?);
        i32::try_from(length).map(|n| n as usize).map_err(|_| format!("{length} bytes are too many"))
    }

    fn length8(&mut self) -> Read<usize> {
        let length = u64::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|_| format!("{length} bytes are too many"))
    }

    fn line(&mut self) -> Read<&'a str> {
        let rest = &self.bytes[self.at..];
        // No name is longer; a search through the whole file would be.
        let end = rest.iter().take(1024).position(|&b| b == b'\n').ok_or("a global's name does not end")?;
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| "a global's name is not UTF-8")?;
        self.at += end + 1;
        Ok(line)
    }

    fn push(&mut self, node: Node) -> Read<()> {
        if self.nodes.len() >= MOST_NODES {
            return Err(format!("more than {MOST_NODES} values"));
        }
        let id = self.nodes.len() as Id;
        self.nodes.push(node);
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Read<Id> {
        if self.marks.last().is_some_and(|&mark| self.stack.len() <= mark) {
            return Err("a value is taken from below a mark".into());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn above_mark(&mut self) -> Read<Vec<Id>> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&mut self) -> Read<&mut Node> {
        let id = *self.stack.last().ok_or("the stack is empty")?;
        Ok(&mut self.nodes[id as usize])
    }

    fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    fn global(&mut self, module: &str, name: &str) -> Read<()> {
        let full = format!("{module}.{name}");
        let known = find(module, name).or_else(|| self.skipped.contains(&full).then_some(Global::Opaque));
        match known {
            Some(global) => self.push(Node::Global(global)),
            None => Err(format!(
                "the file wants Python's `{}`, which is not on the list of what a checkpoint needs",
                full.escape_debug()
            )),
        }
    }

    /// The value that a call gives.
    fn made_by(&mut self, function: Id, arguments: Id) -> Read<Made> {
        let Node::Tuple(arguments) = self.node(arguments) else {
            return Err("the arguments of a call are no tuple".into());
        };
        match self.node(function) {
            Node::Global(Global::Opaque) | Node::Opaque => Ok(Made::New(Node::Opaque)),
            Node::Global(Global::Mapping) => {
                // Python 2 gives an ordered dictionary its items as a list of pairs.
                let Some(&first) = arguments.first() else { return Ok(Made::New(Node::Dict(Vec::new()))) };
                let items: Vec<(Id, Id)> = match self.node(first) {
                    Node::List(items) => {
                        if self.copied + items.len() > MOST_NODES {
                            return Err(format!("more than {MOST_NODES} items"));
                        }
                        items.iter().map(|&id| self.pair(id)).collect::<Read<_>>()?
                    }
                    Node::Dict(_) => return Ok(Made::Old(first)),
                    _ => Vec::new(),
                };
                self.copied += items.len();
                Ok(Made::New(Node::Dict(items)))
            }
            Node::Global(Global::RebuildParameter) => match arguments.first() {
                Some(&id) if matches!(self.node(id), Node::Tensor(_)) => Ok(Made::Old(id)),
                _ => Err("a parameter without a tensor".into()),
            },
            Node::Global(Global::RebuildTensor) => {
                let view = self.tensor(arguments)?;
                self.tensors += 1;
                if self.tensors > MOST_TENSORS {
                    return Err(format!("more than {MOST_TENSORS} tensors"));
                }
                Ok(Made::New(Node::Tensor(view)))
            }
            other => Err(format!("{} cannot be called", other.kind())),
        }
    }

    fn pair(&self, id: Id) -> Read<(Id, Id)> {
        match self.node(id) {
            Node::List(pair) | Node::Tuple(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            other => Err(format!("{} is no pair of key and value", other.kind())),
        }
    }

    fn tensor(&self, arguments: &[Id]) -> Read<View> {
        let &[storage, offset, shape, strides, ..] = arguments else {
            return Err("a tensor needs storage, offset, shape and strides".into());
        };
        let Node::Storage(storage) = self.node(storage) else {
            return Err(format!("a tensor's storage is {}", self.node(storage).kind()));
        };
        let list = |id: Id| match self.node(id) {
            Node::Tuple(items) | Node::List(items) if items.len() <= 16 => {
                items.iter().map(|&id| self.index(id)).collect::<Read<Vec<usize>>>()
            }
            other => Err(format!("a tensor's shape or strides are {}", other.kind())),
        };
        let view = View {
            storage: storage.clone(),
            offset: self.index(offset)?,
            shape: list(shape)?,
            strides: list(strides)?,
        };
        super::strided::check(&view)?;
        Ok(view)
    }

    fn index(&self, id: Id) -> Read<usize> {
        match self.node(id) {
            Node::Int(value) => {
                usize::try_from(*value).map_err(|_| format!("{value} is no size, offset or stride"))
            }
            other => Err(format!("{} stands where a size, an offset or a stride should", other.kind())),
        }
    }

    /// The storage that a persistent identifier names.
    fn persistent(&self, id: Id) -> Read<Node> {
        let Node::Tuple(parts) = self.node(id) else {
            return Err("a persistent identifier is no tuple".into());
        };
        match parts.first().map(|&id| self.node(id)) {
            Some(Node::Text(kind)) if kind == "storage" => {}
            // A class of modules with its source text, in old files.
            Some(Node::Text(kind)) if kind == "module" => return Ok(Node::Global(Global::Opaque)),
            _ => return Err("a persistent identifier names no storage".into()),
        }
        let &[_, class, key, _, whole, ref view @ ..] = parts.as_slice() else {
            return Err("a storage needs class, key, device and length".into());
        };
        let Node::Global(Global::Storage(element)) = *self.node(class) else {
            return Err(format!("a storage's class is {}", self.node(class).kind()));
        };
        let key = match self.node(key) {
            Node::Text(key) if key.len() <= LONGEST_KEY => key.clone(),
            Node::Int(key) => key.to_string(),
            other => return Err(format!("a storage's key is {}", other.kind())),
        };
        let whole = self.index(whole)?;
        let (start, len) = match view.first().map(|&id| self.node(id)) {
            Some(Node::Tuple(parts)) if parts.len() == 3 => (self.index(parts[1])?, self.index(parts[2])?),
            _ => (0, whole),
        };
        if start.checked_add(len).is_none_or(|end| end > whole) {
            return Err(format!("storage {key}: a part {start}+{len} of {whole} elements"));
        }
        Ok(Node::Storage(Storage { key, element, whole, start, len }))
    }
}

enum Made {
    New(Node),
    Old(Id),
}

fn pairs(items: &[Id]) -> Read<Vec<(Id, Id)>> {
    if !items.len().is_multiple_of(2) {
        return Err("a key without a value".into());
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// A little-endian two's complement number.
fn long(bytes: &[u8]) -> Node {
    if bytes.len() > 8 {
        return Node::Long(bytes.to_vec());
    }
    let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
    let mut whole = [fill; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Node::Int(i64::from_le_bytes(whole))
}
