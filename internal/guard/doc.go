// Package guard gives one job a Docker socket of its own. It is a policy proxy in front of the Docker Engine: every call
// is decoded, decided upon and made anew, so that the job sees and touches only what it made itself. The guard is given
// an upstream, a Policy and a list of mounts; it knows nothing of jobs, GitLab or configuration files.
//
// docs/guard.md lists what it refuses and why. ARCHITECTURE.md follows a call and a build through it, and says what the
// packages do that it is built of.
//
// # The guard
//
//   - guard.go: what it is made of, Open and Close
//   - policy.go: what the job may do, and its limits; labels.go: our labels, which no job sees or sets
//   - record.go: what the guard saw created for the job, the only authority on what is the job's own
//   - upstream.go, upstream_version.go: the Engine, and the version of its API in which it is asked
//   - cleanup.go: what is removed when the job ends, or by Sweep
//
// # The way of every call
//
//   - call_router.go: the table of all calls, with the handler of each
//   - call.go: a call until its handler takes it, and what handlers read, refuse and answer with
//   - call_errors.go: refusals by a rule, and the Engine's words for what does not exist
//   - call_relay.go: the Engine's answers on their way to the client, in the job's words; raw connections
//   - call_paced.go: clients for which others wait
//   - call_refused.go: parts of the API that no job gets
//
// # Handlers
//
//   - system.go, events.go: /_ping, /version, /info, /system/df, /auth, /events
//   - create.go: /containers/create. create_body.go is what clients send; create_plan.go decides, asking for its parts
//     create_config.go, create_host.go, create_limits.go, create_mounts.go, create_tmpfs.go and create_network.go; then
//     create_room.go counts and create_binds.go makes what is mounted
//   - containers.go, container_*.go: all else of /containers; /exec and /commit, which are about a container
//   - networks.go, network_*.go, volumes.go: /networks, /volumes
//   - ports.go, ports_open.go: what containers publish, in the network that ports_place.go finds; ports_daemon.go: the
//     job's socket on TCP, there too
//   - images.go, image_*.go: /images, /distribution. image_names.go says which image a name means to the job;
//     registry.go, which registries may be asked; secrets.go, what must not become part of an image
//   - build.go: /build. build_query.go is what is asked, by whichever way; build_tar.go the context; build_base.go the
//     images that it is built on; build_remote.go what ADD fetches; build_answer.go what the client is told, and
//     build_history.go what the job's author is told
//   - session.go: /session. session_build.go are builds whose files come over one; session_upload.go, those whose archive
//     comes in a request of its own
//   - grpc.go: /grpc, for buildx. grpc_control.go and grpc_bridge.go are its two services; grpc_build.go is a build, and
//     its parts are grpc_frontend.go, grpc_options.go, grpc_contexts.go, grpc_policy.go, grpc_export.go and grpc_errors.go
package guard
