//! F7: the ext_proc stream: Envoy's messages into director calls and back.
