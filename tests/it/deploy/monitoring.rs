//! The dashboard and the alert rules: every query is one Prometheus parses, about metrics and labels `epp` has.
