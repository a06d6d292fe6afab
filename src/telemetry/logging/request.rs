//! The request that is being handled on this thread: its id goes on every line written meanwhile, whoever writes it.
//! Called by the director around its decisions and hooks, which never wait.

use std::cell::RefCell;

thread_local! {
    static CURRENT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Bytes of an id that lines carry at most; ids are the client's choice.
const MAX_ID: usize = 256;

/// While it lives, lines of this thread carry the request's id.
#[must_use = "lines carry the id while this lives"]
pub struct RequestScope(());

/// Lines of this thread carry `id` until the scope is dropped. Scopes do not nest: the newest counts.
pub fn request_scope(id: &str) -> RequestScope {
    // Not there any more while a thread ends: then there is nothing to log either.
    let _ = CURRENT.try_with(|current| {
        let mut current = current.borrow_mut();
        current.clear();
        current.push_str(&id[..id.floor_char_boundary(MAX_ID)]);
    });
    RequestScope(())
}

impl Drop for RequestScope {
    fn drop(&mut self) {
        let _ = CURRENT.try_with(|current| current.borrow_mut().clear());
    }
}

/// The id of the request under way, where there is one.
pub(super) fn current() -> Option<String> {
    let id = |id: &RefCell<String>| {
        let id = id.borrow();
        (!id.is_empty()).then(|| id.clone())
    };
    CURRENT.try_with(id).ok().flatten()
}
