# The control plane, with the command line beside it.
#
#   docker build -f deploy/images/server.Dockerfile -t bowline/server:0.1.0 .
#
# Needs a PostgreSQL of yours (BOWLINE_DATABASE_URL): the embedded one is not in it.
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
RUN npm ci --workspace=@bowline/control-plane --workspace=@bowline/cli --omit=dev --omit=optional \
      --ignore-scripts --no-audit --no-fund --registry="${NPM_REGISTRY}" \
 && find . -path '*/node_modules/*' -type f \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' \) -exec rm {} +

FROM ${NODE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Bowline server" \
      org.opencontainers.image.description="The control plane of Bowline, with its command line." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /bowline
COPY --from=dependencies /bowline/node_modules/ node_modules/
COPY --from=dependencies /bowline/services/cli/node_modules/ services/cli/node_modules/
COPY LICENSE ./
COPY libs/ libs/
COPY services/control-plane/ services/control-plane/
COPY services/cli/ services/cli/
# One user for all images, since a Compose file lets one write what another reads. Compiled code is kept where this user
# alone may write; a first start finds it there.
RUN mkdir -p /var/lib/bowline-server /var/lib/bowline /var/cache/bowline/compiled \
 && chown -R 10001:10001 /var/lib/bowline-server /var/lib/bowline /var/cache/bowline \
 && chmod 0700 /var/lib/bowline-server /var/lib/bowline /var/cache/bowline /var/cache/bowline/compiled \
 && ln -s /bowline/services/cli/bin/bowline.js /usr/local/bin/bowline
ENV HOME=/var/lib/bowline-server \
    NODE_ENV=production \
    NODE_COMPILE_CACHE=/var/cache/bowline/compiled \
    BOWLINE_DATA_DIR=/var/lib/bowline-server \
    BOWLINE_HOST=0.0.0.0 \
    BOWLINE_LOG_FORMAT=json
USER 10001:10001
RUN ["node", "services/control-plane/src/main.ts", "config"]
RUN ["node", "services/cli/src/main.ts", "--version"]
VOLUME ["/var/lib/bowline-server"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=8s --start-period=60s --retries=3 \
  CMD ["node", "services/control-plane/src/main.ts", "health"]
ENTRYPOINT ["node", "services/control-plane/src/main.ts"]
CMD ["start"]
