//! What is special about Zope and Plone, as functions: virtual hosting, who is anonymous, how they purge.

pub mod conduct;
pub mod preset;
pub mod purge;
pub mod session;
pub mod vhost;
