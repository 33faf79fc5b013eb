//! Client of the Handover signaling gateway.
