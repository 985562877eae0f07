//! The pure core, from the outside: users' resources in, policies, writes and statuses out.
#![allow(clippy::unwrap_used, missing_docs)]

mod accounts;
mod audit;
mod baseline;
mod callers;
mod checklist;
mod cluster;
mod concerned;
mod derived;
mod dns;
mod enforced;
mod external;
mod generate;
mod generate_properties;
mod meaning;
mod openings;
mod ownership;
mod probe;
mod random;
mod reference;
mod status;
mod status_exceptions;
mod transition;
mod transition_histories;
mod transition_properties;
