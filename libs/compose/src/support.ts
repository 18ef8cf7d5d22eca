/**
 * What becomes of every key of the specification. The one table: files are
 * checked by it, docs/compose.md is made of it, and a test compares it with the
 * published schema, so that no key is missing and none is passed over in silence.
 *
 * Long because it is one table of over two hundred keys, a line each.
 */

/** What becomes of a key. */
export interface Support {
  /**
   * `policy`: supported where the cluster's policy allows it. `ignored`: a
   * warning. `refused`: an error, unless it is empty or false.
   */
  readonly status: "supported" | "policy" | "ignored" | "refused";
  /** Supported: what to know. Else: why, and what to do instead. */
  readonly note: string;
}

/** A mapping of the specification: where it stands (`*`: any name or index), and its keys. */
export interface Section {
  readonly title: string;
  readonly at: readonly string[];
  readonly keys: Readonly<Record<string, Support>>;
}

const yes = (note = ""): Support => ({ status: "supported", note });
const policy = (note: string): Support => ({ status: "policy", note });
const ignored = (note: string): Support => ({ status: "ignored", note });
const refused = (note: string): Support => ({ status: "refused", note });

const labels = ignored("Only labels of services are put on what runs.");
const external = yes("It is neither made nor removed. Needs the cluster's policy.");
const rollout: Section["keys"] = {
  parallelism: yes(),
  delay: yes(),
  failure_action: ignored("The stack's rollout says it: `stack up --no-auto-revert`."),
  monitor: ignored("The stack's rollout says it: `stack up --min-healthy-time`."),
  max_failure_ratio: ignored("A rollout succeeds when all of it is healthy."),
  order: yes(),
};
const fileMount: Section["keys"] = {
  source: yes(),
  target: yes(),
  uid: yes(),
  gid: yes(),
  mode: yes("Read as octal, with or without a leading 0."),
};
const windows = refused("Only Linux containers are supported.");
const cpu = refused("Use `deploy.resources.limits.cpus`.");

/** Every section. */
export const sections: readonly Section[] = [
  {
    title: "Top level",
    at: [],
    keys: {
      version: ignored("The specification no longer has versions; leave it out."),
      name: yes("The name that the stack is given by comes first."),
      include: yes("Where the text of the file is given."),
      services: yes(),
      networks: yes(),
      volumes: yes(),
      secrets: yes(),
      configs: yes(),
      models: refused("Run the model as a service."),
      jobs: refused("Use a service with `deploy.mode: replicated-job`."),
    },
  },
  {
    title: "A service",
    at: ["services", "*"],
    keys: {
      annotations: ignored("No runtime has them; use labels."),
      attach: ignored("Logs are read with `bowline stack logs`."),
      blkio_config: refused("Weights and limits of block devices belong to one host."),
      build: refused("Agents only pull: build the image, push it, and name it in `image`. Ignored beside an `image`."),
      cap_add: policy(""),
      cap_drop: yes(),
      cgroup: ignored("A container's cgroup namespace is as the engine is set."),
      cgroup_parent: policy(""),
      command: yes(),
      configs: yes(),
      container_name: yes("As a name on the service's networks; containers are named after the deployment."),
      cpu_count: windows,
      cpu_percent: windows,
      cpu_period: cpu,
      cpu_quota: cpu,
      cpu_rt_period: cpu,
      cpu_rt_runtime: cpu,
      cpu_shares: ignored("A weight between containers; use `deploy.resources.limits.cpus`."),
      cpus: yes("The same as `deploy.resources.limits.cpus`."),
      cpuset: refused("Cores are numbered differently on each host; use `deploy.resources.limits.cpus`."),
      credential_spec: windows,
      depends_on: yes(),
      deploy: yes(),
      develop: ignored("It is for developing on one machine."),
      device_cgroup_rules: refused("Name the devices in `devices`."),
      devices: policy(""),
      dns: yes(),
      dns_opt: yes(),
      dns_search: yes(),
      domainname: yes(),
      entrypoint: yes(),
      env_file: yes("Its content must be given."),
      environment: yes("Numbers keep the form that they are written in."),
      expose: yes(),
      extends: yes("From another file where its text is given; its relative paths start at its own folder."),
      external_links: refused("Attach both services to an external network."),
      extra_hosts: yes(),
      gpus: refused("Devices with drivers are not placed yet."),
      group_add: yes(),
      healthcheck: yes(),
      hostname: yes(),
      image: yes("Required."),
      init: yes(),
      ipc: policy("`private`, `shareable` and `none` are always allowed."),
      isolation: windows,
      label_file: refused("Write the labels in `labels`."),
      labels: yes(),
      links: yes("As a dependency and an alias on the networks of the linked service."),
      logging: yes(),
      mac_address: refused("Addresses are the engine's; use the service's name."),
      mem_limit: yes("The same as `deploy.resources.limits.memory`."),
      mem_reservation: yes("The same as `deploy.resources.reservations.memory`."),
      mem_swappiness: ignored("Swap is the host's setting."),
      memswap_limit: ignored("Swap is the host's setting."),
      models: refused("Run the model as a service."),
      network_mode: policy("`none` and `bridge` are always allowed; `service:` is not supported."),
      networks: yes(),
      oom_kill_disable: refused("A container over its limit must be ended."),
      oom_score_adj: ignored("Which process ends first is the host's setting."),
      pid: policy(""),
      pids_limit: yes("The same as `deploy.resources.limits.pids`."),
      platform: yes(),
      ports: yes("Published on the agent's host."),
      post_start: refused("Use a service that this one depends on, or the image's entrypoint."),
      pre_start: refused("Use a service with `condition: service_completed_successfully`."),
      pre_stop: refused("Use the stop signal."),
      privileged: policy(""),
      profiles: yes(),
      provider: refused("Only containers run."),
      pull_policy: yes("`always`, `never`, `missing`; others count as `missing`, with a warning."),
      pull_refresh_after: ignored("Images are pulled when a revision rolls out."),
      read_only: yes(),
      restart: yes(),
      runtime: refused("The engine's own runtime is used. `runc` passes."),
      scale: yes("The same as `deploy.replicas`."),
      secrets: yes(),
      security_opt: policy("`no-new-privileges` is always allowed."),
      shm_size: yes(),
      stdin_open: yes(),
      stop_grace_period: yes(),
      stop_signal: yes(),
      storage_opt: refused("It belongs to one storage driver."),
      sysctls: policy("Those of the container's own network and IPC namespace are always allowed."),
      tmpfs: yes(),
      tty: yes(),
      ulimits: yes(),
      umask: refused("Set it in the image's entrypoint."),
      use_api_socket: refused("It gives a container the whole host."),
      user: yes(),
      userns_mode: policy(""),
      uts: policy(""),
      volumes: yes("Host paths need the cluster's policy."),
      volumes_from: refused("Name the volume in both services."),
      working_dir: yes(),
    },
  },
  {
    title: "deploy",
    at: ["services", "*", "deploy"],
    keys: {
      mode: yes("`replicated`, `global` (one per agent), `replicated-job`, `global-job`."),
      endpoint_mode: ignored("There is no virtual address; a service's name leads to its instances."),
      replicas: yes(),
      labels: ignored("They label a service of a swarm; use the service's own labels."),
      rollback_config: ignored("A stack goes back as it went forward."),
      update_config: yes(),
      resources: yes(),
      restart_policy: yes("It wins over `restart`."),
      placement: yes(),
    },
  },
  { title: "deploy.update_config", at: ["services", "*", "deploy", "update_config"], keys: rollout },
  {
    title: "deploy.resources",
    at: ["services", "*", "deploy", "resources"],
    keys: { limits: yes(), reservations: yes() },
  },
  {
    title: "deploy.resources.limits",
    at: ["services", "*", "deploy", "resources", "limits"],
    keys: { cpus: yes(), memory: yes(), pids: yes() },
  },
  {
    title: "deploy.resources.reservations",
    at: ["services", "*", "deploy", "resources", "reservations"],
    keys: {
      cpus: ignored("No cores are kept for a service; bound the others with `deploy.resources.limits.cpus`."),
      memory: yes(),
      generic_resources: refused("Use labels of agents and a placement constraint."),
      devices: refused("Devices with drivers are not placed yet."),
    },
  },
  {
    title: "deploy.restart_policy",
    at: ["services", "*", "deploy", "restart_policy"],
    keys: {
      condition: yes(),
      delay: ignored("Pauses are 100 ms, then twice as long each time, up to a minute."),
      max_attempts: yes("With `on-failure`, and for jobs."),
      window: ignored("Each failure counts, whenever it happens."),
    },
  },
  {
    title: "deploy.placement",
    at: ["services", "*", "deploy", "placement"],
    keys: {
      constraints: yes("`node.labels.NAME`, `node.hostname`, `node.platform.os` and `.arch`, with `==` or `!=`."),
      preferences: ignored("Instances are spread over agents anyway."),
      max_replicas_per_node: yes(),
    },
  },
  {
    title: "healthcheck",
    at: ["services", "*", "healthcheck"],
    keys: {
      disable: yes(),
      interval: yes("30 s where it is left out, and the first try comes after it."),
      retries: yes("3 where it is left out."),
      test: yes("`CMD`, `CMD-SHELL`, `NONE`, or a string for the shell."),
      timeout: yes("30 s where it is left out."),
      start_period: yes(),
      start_interval: ignored("`interval` counts from the start."),
    },
  },
  {
    title: "depends_on",
    at: ["services", "*", "depends_on", "*"],
    keys: {
      condition: yes(),
      required: yes(),
      restart: ignored("What a service needs is connected to again, not restarted with."),
    },
  },
  {
    title: "env_file",
    at: ["services", "*", "env_file", "*"],
    keys: { path: yes(), format: yes("`raw`."), required: yes() },
  },
  {
    title: "extends",
    at: ["services", "*", "extends"],
    keys: { service: yes(), file: yes("Its text must be given.") },
  },
  {
    title: "include",
    at: ["include", "*"],
    keys: {
      path: yes(),
      env_file: yes("Variables for that file; by default of `.env` in its folder. The stack's own come first."),
      project_directory: yes("Where its relative paths start; by default the folder of the file."),
    },
  },
  {
    title: "logging",
    at: ["services", "*", "logging"],
    keys: {
      driver: yes("`json-file`, `local` and `none`; others need the cluster's policy."),
      options: yes(),
    },
  },
  {
    title: "networks of a service",
    at: ["services", "*", "networks", "*"],
    keys: {
      aliases: yes(),
      driver_opts: ignored("The engine's defaults are used."),
      gw_priority: ignored("The engine chooses."),
      interface_name: refused("The engine names interfaces."),
      ipv4_address: refused("Addresses are the engine's; use the service's name."),
      ipv6_address: refused("Addresses are the engine's; use the service's name."),
      link_local_ips: refused("Addresses are the engine's; use the service's name."),
      mac_address: refused("Addresses are the engine's; use the service's name."),
      priority: ignored("The order in which networks are attached has no effect here."),
      use_service_name_alias: ignored("A service's name always leads to it."),
    },
  },
  {
    title: "ports, long form",
    at: ["services", "*", "ports", "*"],
    keys: {
      name: yes(),
      target: yes(),
      published: yes("Without it any free port of the host."),
      host_ip: yes(),
      protocol: yes("`tcp` or `udp`."),
      mode: ignored("`host` is what is done: ports are published on the hosts where the service runs."),
      app_protocol: ignored("A hint that nothing reads."),
    },
  },
  { title: "secrets of a service", at: ["services", "*", "secrets", "*"], keys: fileMount },
  { title: "configs of a service", at: ["services", "*", "configs", "*"], keys: fileMount },
  { title: "ulimits", at: ["services", "*", "ulimits", "*"], keys: { soft: yes(), hard: yes() } },
  {
    title: "volumes of a service, long form",
    at: ["services", "*", "volumes", "*"],
    keys: {
      type: yes("`volume`, `tmpfs`, `bind`; others are refused."),
      source: yes(),
      target: yes(),
      read_only: yes(),
      consistency: ignored("It has an effect on desktops only."),
      bind: yes(),
      volume: yes(),
      tmpfs: yes(),
      image: refused("Mounts of images are not supported."),
    },
  },
  {
    title: "volumes of a service, bind",
    at: ["services", "*", "volumes", "*", "bind"],
    keys: {
      create_host_path: yes(),
      propagation: yes("`rprivate`; `rslave` counts as it, with a warning, and `rshared` is refused."),
      recursive: ignored("The engine's default is used."),
      selinux: ignored("Labels of SELinux are the host's setting."),
    },
  },
  {
    title: "volumes of a service, volume",
    at: ["services", "*", "volumes", "*", "volume"],
    keys: {
      nocopy: ignored("What the image has there is copied into an empty volume."),
      labels,
      subpath: refused("Mount the volume as a whole."),
    },
  },
  {
    title: "volumes of a service, tmpfs",
    at: ["services", "*", "volumes", "*", "tmpfs"],
    keys: { size: yes(), mode: yes() },
  },
  {
    title: "A network",
    at: ["networks", "*"],
    keys: {
      name: yes("Of an external network. Others are named after the deployment, with a warning."),
      driver: yes("`bridge`; `overlay` counts as `bridge`, others need the cluster's policy."),
      driver_opts: ignored("The engine's defaults are used."),
      ipam: ignored("The engine picks free addresses."),
      external,
      internal: yes(),
      enable_ipv4: ignored("The engine's default is used."),
      enable_ipv6: ignored("The engine's default is used."),
      attachable: ignored("Only services of the stack are attached."),
      labels,
    },
  },
  {
    title: "A network, external",
    at: ["networks", "*", "external"],
    keys: { name: yes("Deprecated: write `name` beside `external: true`.") },
  },
  {
    title: "A volume",
    at: ["volumes", "*"],
    keys: {
      name: yes("Of an external volume. Others are named after the deployment, with a warning."),
      driver: yes("`local`; others need the cluster's policy."),
      driver_opts: yes("Needs the cluster's policy: a `bind` is a host path, other mounts are a driver."),
      external,
      labels,
    },
  },
  {
    title: "A volume, external",
    at: ["volumes", "*", "external"],
    keys: { name: yes("Deprecated: write `name` beside `external: true`.") },
  },
  {
    title: "A secret",
    at: ["secrets", "*"],
    keys: {
      name: yes("Of an external secret."),
      environment: yes(),
      file: yes("Its content must be given."),
      external: yes("A secret of the API, by name."),
      labels,
      driver: refused("Secrets come from the API, or with the stack."),
      driver_opts: refused("Secrets come from the API, or with the stack."),
      template_driver: refused("Write the content as it is to be."),
    },
  },
  { title: "A secret, external", at: ["secrets", "*", "external"], keys: { name: yes("Deprecated.") } },
  {
    title: "A config",
    at: ["configs", "*"],
    keys: {
      name: ignored("A config is known by its key."),
      content: yes(),
      environment: yes(),
      file: yes("Its content must be given."),
      external: refused(
        "Configs are not kept outside of stacks: give the content with `file`, `content` or `environment`.",
      ),
      labels,
      template_driver: refused("Write the content as it is to be."),
    },
  },
];
