//! The machine that reads a pickle as data.
//!
//! A pickle is a program for a stack machine that may call any function of Python. This one knows the opcodes that build
//! values, and a call is only ever read: its function must be on the list of [`super::globals`].

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek};

use super::archive::Region;
use super::arrays::{Arrays, Span};
use super::globals::find;
use super::input::Input;
use super::value::{Global, Id, Node, Storage, View};

/// A whole pickle.
pub(super) struct Pickle {
    pub nodes: Vec<Node>,
    pub root: Id,
    /// Bytes that it took.
    pub length: usize,
    /// Where the elements of numpy's arrays lie in it.
    pub regions: HashMap<String, Region>,
}

/// Values a pickle may have; a training checkpoint has some ten thousand.
const MOST_NODES: usize = 1 << 20;

/// Tensors a pickle may have; each is a dozen values that can be named again in a few bytes.
const MOST_TENSORS: usize = 1 << 16;

/// Bytes of a text that is looked at; what is longer are numbers.
const LONGEST_TEXT: usize = 1024;

/// Characters of a storage's key, which every view of it repeats.
const LONGEST_KEY: usize = 64;

pub(super) struct Machine<'a, R> {
    input: Input<R>,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Items that calls have copied: a list can be copied again and again in a few bytes.
    copied: usize,
    tensors: usize,
    /// Further names (`module.name`) whose objects are skipped.
    skipped: &'a [String],
    /// What is known of numpy's arrays, where they are read.
    pub(super) arrays: Option<Arrays>,
}

pub(super) type Read<T> = Result<T, String>;

/// Reads the pickle at the beginning of `bytes`.
pub(super) fn read(bytes: &[u8], skipped: &[String]) -> Read<Pickle> {
    run(Input::new(Cursor::new(bytes), bytes.len() as u64), skipped, None)
}

/// Reads a file that is one pickle, with numpy's arrays in it. Their elements are passed over.
pub(super) fn read_file(file: File, length: u64, skipped: &[String]) -> Read<Pickle> {
    run(Input::new(BufReader::new(file), length), skipped, Some(Arrays::default()))
}

fn run<R: BufRead + Seek>(input: Input<R>, skipped: &[String], arrays: Option<Arrays>) -> Read<Pickle> {
    let mut machine = Machine {
        input,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        copied: 0,
        tensors: 0,
        skipped,
        arrays,
    };
    let root = machine.run().map_err(|e| format!("pickle, byte {}: {e}", machine.input.at()))?;
    let regions = machine.arrays.map(|arrays| arrays.regions).unwrap_or_default();
    Ok(Pickle { nodes: machine.nodes, root, length: machine.input.at() as usize, regions })
}

impl<R: BufRead + Seek> Machine<'_, R> {
    fn run(&mut self) -> Read<Id> {
        loop {
            let op = self.input.byte()?;
            match op {
                b'.' => return self.pop(),
                _ => self.step(op)?,
            }
        }
    }

    fn step(&mut self, op: u8) -> Read<()> {
        match op {
            0x80 => {
                let version = self.input.byte()?;
                if !(1..=5).contains(&version) {
                    return Err(format!("protocol {version} is not known"));
                }
            }
            // Frame: a hint for readers of streams.
            0x95 => drop(self.input.array::<8>()?),
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
                self.input.array::<8>()?;
                self.push(Node::Opaque)?;
            }
            b'J' => {
                let value = i32::from_le_bytes(self.input.array()?);
                self.push(Node::Int(value.into()))?;
            }
            b'K' => {
                let value = self.input.byte()?;
                self.push(Node::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.input.array()?);
                self.push(Node::Int(value.into()))?;
            }
            0x8a | 0x8b => {
                let length = if op == 0x8a { self.input.byte()?.into() } else { self.input.length4()? };
                let bytes = self.input.take(length)?;
                self.push(long(&bytes))?;
            }
            b'U' | b'C' | 0x8c | b'T' | b'B' | b'X' | 0x8d | 0x8e | 0x96 => {
                let length = match op {
                    b'U' | b'C' | 0x8c => self.input.byte()?.into(),
                    b'T' | b'B' | b'X' => self.input.length4()?,
                    _ => self.input.length8()?,
                };
                let span = Span {
                    start: self.input.at(),
                    len: length as u64,
                    text: matches!(op, 0x8c | b'X' | 0x8d),
                };
                if self.arrays.is_some() && length > LONGEST_TEXT {
                    self.input.skip(length)?;
                    self.push(Node::Opaque)?;
                } else {
                    match (op, String::from_utf8(self.input.take(length)?)) {
                        // Python 2 wrote its texts as bytes.
                        (b'U' | b'T' | 0x8c | b'X' | 0x8d, Ok(text)) => self.push(Node::Text(text))?,
                        (0x8c | b'X' | 0x8d, Err(_)) => return Err("a text is not UTF-8".into()),
                        _ => self.push(Node::Opaque)?,
                    }
                }
                if let Some(arrays) = &mut self.arrays {
                    arrays.spans.insert(self.nodes.len() as Id - 1, span);
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
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.global(&module, &name)?;
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
                let state = self.pop()?;
                if self.arrays.is_some() && self.set_state(state)? {
                    return Ok(());
                }
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
                    b'q' => self.input.byte()?.into(),
                    b'r' => u32::from_le_bytes(self.input.array()?),
                    _ => self.memo.len() as u32,
                };
                let top = *self.stack.last().ok_or("the stack is empty")?;
                self.memo.insert(place, top);
            }
            b'h' | b'j' => {
                let place = if op == b'h' {
                    self.input.byte()?.into()
                } else {
                    u32::from_le_bytes(self.input.array()?)
                };
                let id = *self.memo.get(&place).ok_or_else(|| format!("nothing is kept as {place}"))?;
                self.stack.push(id);
            }
            _ => return Err(format!("opcode {op:#04x} is not on the list")),
        }
        Ok(())
    }

    pub(super) fn push(&mut self, node: Node) -> Read<()> {
        let id = self.made(node)?;
        self.stack.push(id);
        Ok(())
    }

    /// A new value that is not on the stack.
    pub(super) fn made(&mut self, node: Node) -> Read<Id> {
        if self.nodes.len() >= MOST_NODES {
            return Err(format!("more than {MOST_NODES} values"));
        }
        self.nodes.push(node);
        Ok(self.nodes.len() as Id - 1)
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

    pub(super) fn top(&mut self) -> Read<&mut Node> {
        let id = *self.stack.last().ok_or("the stack is empty")?;
        Ok(&mut self.nodes[id as usize])
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    fn global(&mut self, module: &str, name: &str) -> Read<()> {
        let full = format!("{module}.{name}");
        if self.arrays.is_some() && self.array_global(module, name)? {
            return Ok(());
        }
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
                self.counted(view).map(Made::New)
            }
            Node::Global(Global::Numpy(function)) => {
                let (function, arguments) =
                    (*function, arguments.iter().copied().take(5).collect::<Vec<Id>>());
                self.array_call(function, &arguments).map(Made::New)
            }
            Node::Record(fields) => {
                if fields.len() != arguments.len() || self.copied + fields.len() > MOST_NODES {
                    return Err(format!("{} values for {} fields", arguments.len(), fields.len()));
                }
                let items: Vec<(Id, Id)> = fields.iter().copied().zip(arguments.iter().copied()).collect();
                self.copied += items.len();
                Ok(Made::New(Node::Dict(items)))
            }
            other => Err(format!("{} cannot be called", other.kind())),
        }
    }

    /// A tensor, if there are not too many.
    pub(super) fn counted(&mut self, view: View) -> Read<Node> {
        self.tensors += 1;
        if self.tensors > MOST_TENSORS {
            return Err(format!("more than {MOST_TENSORS} tensors"));
        }
        Ok(Node::Tensor(view))
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
        let view = View {
            storage: storage.clone(),
            offset: self.index(offset)?,
            shape: self.extents(shape)?,
            strides: self.extents(strides)?,
        };
        super::strided::check(&view)?;
        Ok(view)
    }

    /// Few sizes or strides.
    pub(super) fn extents(&self, id: Id) -> Read<Vec<usize>> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) if items.len() <= 16 => {
                items.iter().map(|&id| self.index(id)).collect()
            }
            other => Err(format!("a tensor's shape or strides are {}", other.kind())),
        }
    }

    pub(super) fn index(&self, id: Id) -> Read<usize> {
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
