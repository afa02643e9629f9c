# Slipway in a container: docs/container.md says how to run it. `make image` builds it, with the binary of `make build`.
ARG BASE=debian:stable-slim
FROM $BASE
RUN command -v git >/dev/null || { \
	apt-get update && apt-get install -y --no-install-recommends ca-certificates git && rm -rf /var/lib/apt/lists/*; \
	}
COPY bin/slipway /usr/local/bin/slipway
# Running jobs are finished; docker run needs a --stop-timeout that is long enough for them.
STOPSIGNAL SIGQUIT
ENTRYPOINT ["slipway"]
CMD ["run"]
