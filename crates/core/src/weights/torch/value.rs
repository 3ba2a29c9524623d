//! What a pickle is made of here.

use candle_core::DType;

use super::arrays::Span;

/// A place in [`super::machine::Pickle::nodes`]. Values point at each other by number, so a value that holds itself or
/// the same list a million times costs no more than its opcodes.
pub(super) type Id = u32;

/// The element type of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
    /// Complex and other numbers that Candle has no type for, with the bytes of one.
    Other(usize),
}

impl Element {
    /// The type of a class of storages (`FloatStorage`).
    pub(super) fn of_storage(name: &str) -> Option<Self> {
        Some(match name {
            "DoubleStorage" => Self::F64,
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::BF16,
            "LongStorage" => Self::I64,
            "IntStorage" => Self::I32,
            "ShortStorage" => Self::I16,
            "CharStorage" => Self::I8,
            "ByteStorage" => Self::U8,
            "BoolStorage" => Self::Bool,
            "ComplexFloatStorage" => Self::Other(8),
            "ComplexDoubleStorage" => Self::Other(16),
            _ => return None,
        })
    }

    /// Bytes of one element in the file.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::Other(size) => size,
        }
    }

    /// The type of the tensor that is made of it. Bytes with a sign and truth values are [`DType::U8`].
    pub(super) fn dtype(self) -> Option<DType> {
        Some(match self {
            Self::F64 => DType::F64,
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
            Self::I64 => DType::I64,
            Self::I32 => DType::I32,
            Self::I16 => DType::I16,
            Self::U8 | Self::Bool => DType::U8,
            Self::I8 | Self::Other(_) => return None,
        })
    }
}

/// A storage, or a part of one: what a persistent identifier names.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    /// Its name among the storages of the file.
    pub key: String,
    pub element: Element,
    /// Elements of the whole storage.
    pub whole: usize,
    /// The part that is meant: first element and length.
    pub start: usize,
    pub len: usize,
}

/// A view of a storage: strides are in elements.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub storage: Storage,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// What a global name on the list stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// A class of storages.
    Storage(Element),
    /// `torch._utils._rebuild_tensor_v2` and its forerunner.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`: its first argument.
    RebuildParameter,
    /// A class of dictionaries.
    Mapping,
    /// A function that arrays are made by.
    Numpy(Numpy),
    /// Something that is not looked into.
    Opaque,
}

/// Functions of a pickle that has numpy's arrays in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numpy {
    /// `numpy.dtype`.
    Type,
    /// `_reconstruct`: an array before its state.
    Empty,
    /// `_frombuffer`: bytes, type, shape and order.
    FromBuffer,
    /// `_codecs.encode`: the characters of a text as bytes.
    Encode,
    /// JAX's and dill's: the function, arguments and state of numpy's, and what they add.
    OfState,
    /// dill's description of a class of tuples with names: name and fields.
    NamedTuple,
}

/// One value of a pickle.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits, little-endian.
    Long(Vec<u8>),
    Text(String),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(View),
    /// numpy's element type.
    Type(Element),
    /// An array of numpy's before its state.
    Empty,
    /// A byte string that was written as a text.
    Bytes(Span),
    /// A class of tuples with these names.
    Record(Vec<Id>),
    /// `None`, numbers and objects that no tensor depends on.
    Opaque,
}

impl Node {
    /// The kind of value, for errors.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a truth value",
            Self::Int(_) | Self::Long(_) => "an integer",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Dict(_) => "a dictionary",
            Self::Global(_) => "a name",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) | Self::Empty => "a tensor",
            Self::Type(_) => "an element type",
            Self::Bytes(_) => "bytes",
            Self::Record(_) => "a class of tuples",
            Self::Opaque => "an object",
        }
    }
}
