# The agent of a Docker host.
#
#   docker build -f deploy/images/agent-docker.Dockerfile -t bowline/agent-docker:0.1.0 .
#   docker run …: docs/operations/containers.md; `bowline token create` prints the whole line.
#
# Behind a mirror: --build-arg NODE_IMAGE=…  --build-arg NPM_REGISTRY=…; pinned to a digest: NODE_IMAGE=node@sha256:…
ARG NODE_IMAGE=node:24.21.0-bookworm-slim

# Manifests alone: what follows is made again only where one of them changed.
FROM ${NODE_IMAGE} AS manifests
WORKDIR /bowline
COPY . .
RUN find . -type f ! -name package.json ! -name package-lock.json -exec rm {} +

FROM ${NODE_IMAGE} AS dependencies
ARG NPM_REGISTRY=https://registry.npmjs.org/
WORKDIR /bowline
COPY --from=manifests /bowline .
# No script of any package runs. What only tells a compiler or a debugger something is left out.
RUN npm ci --workspace=@bowline/agent-docker --omit=dev --omit=optional \
      --ignore-scripts --no-audit --no-fund --registry="${NPM_REGISTRY}" \
 && find . -path '*/node_modules/*' -type f \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' \) -exec rm {} +

FROM ${NODE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Bowline agent for Docker" \
      org.opencontainers.image.description="Dials a Bowline server and runs what it is told on the Docker Engine beside it." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /bowline
COPY --from=dependencies /bowline/node_modules/ node_modules/
COPY LICENSE ./
# What reaches a customer's network, and none of the server's.
COPY libs/auth/ libs/auth/
COPY libs/contract/ libs/contract/
COPY libs/dial/ libs/dial/
COPY libs/kernel/ libs/kernel/
COPY libs/session/ libs/session/
COPY libs/start/ libs/start/
COPY libs/traces/ libs/traces/
COPY agents/core/ agents/core/
COPY agents/docker/ agents/docker/
# Started by its path, as a process of its own.
COPY agents/forwarder/ agents/forwarder/
# One user for all images, since a Compose file lets one write what another reads. Compiled code is kept where this user
# alone may write; a first start finds it there.
RUN mkdir -p /var/lib/bowline /var/cache/bowline/compiled \
 && chown -R 10001:10001 /var/lib/bowline /var/cache/bowline \
 && chmod 0700 /var/lib/bowline /var/cache/bowline /var/cache/bowline/compiled
ENV HOME=/var/lib/bowline \
    NODE_ENV=production \
    NODE_COMPILE_CACHE=/var/cache/bowline/compiled \
    BOWLINE_AGENT_DATA_DIR=/var/lib/bowline \
    BOWLINE_LOG_FORMAT=json
# Not root: give it the group of the engine's socket with --group-add. Started as root it sees to that by itself.
USER 10001:10001
RUN ["node", "agents/docker/src/image.ts", "--help"]
VOLUME ["/var/lib/bowline"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=8s --start-period=30s --retries=3 \
  CMD ["node", "agents/docker/src/image.ts", "health"]
ENTRYPOINT ["node", "agents/docker/src/image.ts"]
