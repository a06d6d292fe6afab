//! F7: the metrics page and the gRPC health service.
