//! The names that a pickle may use. Nothing is ever called: a name on the list says how its arguments are read.

use super::value::{Element, Global};

/// Names whose objects are skipped, by module. None of them leads to a tensor.
const OPAQUE: &[(&str, &[&str])] = &[
    (
        "torch",
        &[
            "device",
            "Size",
            "float64",
            "double",
            "float32",
            "float",
            "float16",
            "half",
            "bfloat16",
            "int64",
            "long",
            "int32",
            "int",
            "int16",
            "short",
            "int8",
            "uint8",
            "bool",
            "complex64",
            "strided",
        ],
    ),
    ("torch.serialization", &["_get_layout"]),
    ("torch.backends.cudnn", &["rnn"]),
    ("torch.nn.backends.thnn", &["_get_thnn_function_backend"]),
    ("argparse", &["Namespace"]),
    ("types", &["SimpleNamespace"]),
    ("_codecs", &["encode"]),
    ("numpy", &["dtype", "ndarray", "float64", "float32", "int64", "int32", "bool_"]),
    ("numpy.core.multiarray", &["scalar", "_reconstruct"]),
    ("numpy._core.multiarray", &["scalar", "_reconstruct"]),
    ("collections", &["deque"]),
    ("copyreg", &["_reconstructor"]),
    ("copy_reg", &["_reconstructor"]),
    ("pathlib", &["Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"]),
    ("datetime", &["datetime", "date", "timedelta"]),
    // InstDisc's files hold its memory bank as an object of its own code; the weights stand beside it.
    ("lib.LinearAverage", &["LinearAverage"]),
    ("lib.NCEAverage", &["NCEAverage"]),
    ("lib.alias_multinomial", &["AliasMethod"]),
];

/// Python's own, whose module has two names.
const BUILT_IN: &[&str] = &[
    "object",
    "set",
    "frozenset",
    "list",
    "tuple",
    "int",
    "long",
    "float",
    "complex",
    "str",
    "unicode",
    "bool",
    "bytes",
    "bytearray",
    "slice",
    "range",
    "xrange",
];

/// What `module.name` stands for; `None` for a name that is not on the list.
pub(super) fn find(module: &str, name: &str) -> Option<Global> {
    let built_in = matches!(module, "builtins" | "__builtin__");
    match (module, name) {
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Some(Global::RebuildParameter)
        }
        ("torch" | "torch.cuda" | "torch.storage", _) if Element::of_storage(name).is_some() => {
            Element::of_storage(name).map(Global::Storage)
        }
        ("collections", "OrderedDict" | "defaultdict" | "Counter") => Some(Global::Mapping),
        (_, "dict") if built_in => Some(Global::Mapping),
        _ if built_in && BUILT_IN.contains(&name) => Some(Global::Opaque),
        _ => {
            let listed = OPAQUE.iter().any(|(m, names)| *m == module && names.contains(&name));
            listed.then_some(Global::Opaque)
        }
    }
}
