//! Messages that lie on disk or in a column. Enters: a message, or bytes. Leaves: the other. Never: a name of the protobuf library at the
//! caller's.

use prost::Message;

use crate::v1;

/// A window as it is kept in a spool and in the ledger.
pub fn window_to_bytes(window: &v1::Window) -> Vec<u8> {
    window.encode_to_vec()
}

/// The window that [`window_to_bytes`] made these bytes of; `None`: they are not one.
pub fn window_from_bytes(bytes: &[u8]) -> Option<v1::Window> {
    v1::Window::decode(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_comes_back_and_a_torn_one_does_not() {
        let window = v1::Window { sequence: 7, end_ns: 9, ..v1::Window::default() };
        let bytes = window_to_bytes(&window);
        assert_eq!(window_from_bytes(&bytes), Some(window));
        assert_eq!(window_from_bytes(&bytes[..bytes.len() - 1]), None);
    }
}
