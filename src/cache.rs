//! The cache: where responses are kept and how equal misses become one request.
//!
//! Decides nothing about HTTP (that is `semantics`), and does not know upstreams: the pipeline joins the two. When memory
//! is short it forgets; it never refuses to let a response pass.

pub mod body;
pub mod coded;
pub mod collapse;
pub mod disk;
pub mod entry;
pub mod ledger;
pub mod private;
pub mod rules;
pub mod seats;
pub mod store;

pub use body::BodyReader;
pub use body::Fill;
pub use body::StoredBody;
pub use collapse::Flight;
pub use collapse::Joined;
pub use collapse::Leader;
pub use entry::Shelf;
pub use entry::Stored;
pub use ledger::Tagged;
pub use private::Mark;
pub use private::Privacy;
pub use store::Cache;
pub use store::Settings;
