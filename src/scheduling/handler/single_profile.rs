//! `single-profile-handler`: runs the one profile there is (plugins.md §3.2).

use std::sync::Arc;

use serde::Deserialize;

use crate::plugin::{Cycle, Decision, Handler, HandlerStep, PluginType, ProfileName, Roles};

/// Registration.
pub const TYPE: PluginType = PluginType {
    name: "single-profile-handler",
    help: "Runs the only scheduling profile and sends the request where that profile says.",
    params: &[],
    make: |_, params| {
        let Parameters {} = params.decode(&[])?;
        Ok(Roles {
            handler: Some(Arc::new(SingleProfile)),
            ..Roles::default()
        })
    },
};

#[derive(Default, Deserialize)]
struct Parameters {}

/// Runs the only profile.
pub struct SingleProfile;

impl Handler for SingleProfile {
    fn check(&self, profiles: &[ProfileName]) -> Result<(), String> {
        match profiles.len() {
            1 => Ok(()),
            0 => Err("SingleProfileHandler needs one scheduling profile, there is none".into()),
            _ => Err("SingleProfileHandler cannot support multiple scheduling profiles".into()),
        }
    }

    fn next(&self, _: &Cycle<'_>, _: &[ProfileName], decision: &Decision) -> HandlerStep {
        match decision.profiles.first() {
            Some(profile) if !profile.ran => HandlerStep::Run(0),
            _ => HandlerStep::Done,
        }
    }

    fn primary(&self, profiles: &[ProfileName], decision: &Decision) -> Result<usize, String> {
        match (profiles, decision.profiles.as_slice()) {
            ([_], [result]) if !result.picked.is_empty() => Ok(0),
            ([name], _) => Err(format!("failed to run scheduler profile '{name}'")),
            _ => Err("single profile handler is intended to be used with a single profile".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_profile_is_accepted() {
        for (profiles, error) in [
            (&[][..], Some("there is none")),
            (&["a"], None),
            (
                &["a", "b"],
                Some("SingleProfileHandler cannot support multiple scheduling profiles"),
            ),
        ] {
            let names: Vec<ProfileName> = profiles.iter().map(|n| (*n).into()).collect();
            let said = SingleProfile.check(&names).err();
            assert_eq!(said.is_some(), error.is_some(), "{profiles:?}");
            assert!(said.unwrap_or_default().contains(error.unwrap_or("")));
        }
    }
}
