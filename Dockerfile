# Two stages: build with Rust, run on a distroless image as a user without rights. Nothing comes from Docker Hub itself.
#
#   docker build --build-arg COMMIT_SHA=$(git rev-parse HEAD) --tag REGISTRY/endpoint-picker:0.1.0 .
#
# inference-sim is in the same image: --entrypoint /inference-sim.
FROM mirror.gcr.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
ARG COMMIT_SHA=unknown
ENV COMMIT_SHA=$COMMIT_SHA
RUN cargo build --locked --release --bins && strip target/release/epp target/release/inference-sim

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/epp /src/target/release/inference-sim /
USER 65532:65532
# ext_proc, gRPC health, metrics; the simulator's 8000.
EXPOSE 9002 9003 9090 8000
ENTRYPOINT ["/epp"]
