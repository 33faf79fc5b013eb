//! The integration tests: one binary, real sockets on ports the system chose, one behaviour a
//! file.

mod architecture;
