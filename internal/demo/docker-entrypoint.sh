#!/bin/sh
# Starts what the container is asked to run, as the official docker image does: `docker run docker ps` and
# `docker run docker --version` mean the docker client, everything else is run as it stands.
set -eu

case "${1-}" in
-*) set -- docker "$@" ;;
*) if docker help "${1-}" >/dev/null 2>&1; then set -- docker "$@"; fi ;;
esac

# Without an address and without a mounted socket, the Engine can only be the service next door.
if [ -z "${DOCKER_HOST-}" ] && [ ! -S /var/run/docker.sock ]; then
	if [ -n "${DOCKER_TLS_VERIFY-}" ] || [ -s "${DOCKER_TLS_CERTDIR-}/client/ca.pem" ]; then
		export DOCKER_HOST=tcp://docker:2376
	else
		export DOCKER_HOST=tcp://docker:2375
	fi
fi

# TLS with the certificates that the service left in the shared folder.
case "${DOCKER_HOST-}" in
tcp:*)
	if [ -z "${DOCKER_TLS_VERIFY-}" ] && [ -n "${DOCKER_TLS_CERTDIR-}" ] && [ -s "$DOCKER_TLS_CERTDIR/client/ca.pem" ]; then
		export DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH="$DOCKER_TLS_CERTDIR/client"
	fi
	;;
esac

exec "$@"
