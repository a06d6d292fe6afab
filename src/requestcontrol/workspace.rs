//! Buffers of a decision, kept per thread and reused, so that deciding allocates nothing after warm-up.

use std::cell::RefCell;

use crate::model::endpoint_list::EndpointList;
use crate::model::sample::Signals;
use crate::plugin::{Decision, PrefixState};

use super::avoid::Avoided;
use super::gather::Gathered;

/// The buffers. Contents are meaningless between decisions, but for what is gathered.
#[derive(Default)]
pub struct Workspace {
    /// Candidates left by the subset hint; empty when there is no hint.
    pub subset: EndpointList,
    /// The numbers of all endpoints; kept from decision to decision.
    pub gathered: Gathered,
    /// The endpoints of the fleet that cannot be reached; kept from decision to decision.
    pub avoided: Avoided,
    /// The numbers of those left by a subset hint.
    pub signals: Vec<Signals>,
    /// Prefix hashes and matches.
    pub prefix: RefCell<PrefixState>,
    /// The decision.
    pub decision: Decision,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// Runs `f` with this thread's workspace, emptied; [`hand_over`] follows. Not reentrant: `f` must not route another request.
pub fn with<R>(f: impl FnOnce(&mut Workspace) -> R) -> R {
    WORKSPACE.with_borrow_mut(|w| {
        w.signals.clear();
        w.subset = EndpointList::default();
        w.prefix.get_mut().reset();
        f(w)
    })
}

/// Runs `f` with what the last [`with`] of this thread left in the workspace, for handing its buffers over.
pub fn hand_over<R>(f: impl FnOnce(&mut Workspace) -> R) -> R {
    WORKSPACE.with_borrow_mut(|w| {
        let result = f(w);
        // Endpoints that leave the fleet must not be kept alive by an idle thread.
        w.subset = EndpointList::default();
        result
    })
}
