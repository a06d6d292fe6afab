//! F3: what a plugin is: the role traits, the cycle a decision runs in, the registry of types, typed
//! parameters. A plugin is one file that implements some roles and registers one [`PluginType`].

mod cycle;
mod decision;
mod hooks;
mod params;
mod registry;
mod roles;

pub use cycle::{Cycle, PrefixKey, PrefixMatch, PrefixState};
pub use decision::{Decision, FilterVerdict, ProfileDecision, others};
pub use hooks::{EndpointObserver, Mutation, PreRequest, ResponseComplete, ResponseHeaders, ResponseView};
pub use params::{Params, ParamsError};
pub use registry::{Context, ParamDoc, PluginInstance, PluginType, Registry};
pub use roles::{Filter, Handler, HandlerStep, Picker, ProfileName, Roles, Scorer};

/// The random generator of one decision, seeded once per request.
pub type DecisionRng = rand::rngs::SmallRng;
