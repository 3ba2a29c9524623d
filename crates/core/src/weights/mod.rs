//! Safetensors in and out, and the manifest that travels with them.
