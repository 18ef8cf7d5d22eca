/**
 * The closed set of what can be wrong with a Compose file. Callers switch on
 * the reason; the message beside it is for people and may change.
 *
 * R1: a reason never changes its name once it is released.
 */
export const composeReasons = {
  // Reading
  YAML_INVALID: "The text is not YAML; the line and column say where.",
  YAML_DUPLICATE_KEY: "A key stands twice in one mapping.",
  YAML_TAG_UNKNOWN: "A tag other than YAML's own, `!reset` and `!override`.",
  YAML_ALIAS_INVALID: "An alias without an anchor, one that contains itself, or a merge key of something else.",
  TOO_LARGE: "The files, or what interpolation makes of them, are larger than the limit.",
  TOO_DEEP: "Mappings and sequences are nested deeper than the limit.",
  TOO_MANY: "More files, nodes, services, ports or instances than the limit.",

  // Interpolation
  INTERPOLATION_INVALID: "A `$` expression cannot be read.",
  VARIABLE_REQUIRED: "A variable that the file demands (`${NAME:?…}`) is not set.",
  VARIABLE_UNSET: "A variable is not set and counts as empty.",

  // The schema, and values that it leaves open
  SCHEMA_UNKNOWN_KEY: "The Compose specification has no such key here.",
  SCHEMA_INVALID: "The value is not one that the Compose specification allows here.",
  VALUE_INVALID: "The value has the right type and no meaning: a duration, a size, a port, a path.",
  NAME_INVALID: "A name of a stack, service, volume, network, secret, config or label cannot be used.",
  SERVICES_MISSING: "There is no service in the files.",
  IMAGE_MISSING: "A service has no image.",

  // References
  REFERENCE_UNKNOWN: "A service, volume, network, secret or config is used and not declared.",
  REFERENCE_DISABLED: "A service is used that no active profile has.",
  DEPENDENCY_CYCLE: "Services depend on each other in a circle.",
  EXTENDS_INVALID: "`extends` leads nowhere, or in a circle.",
  INCLUDE_UNSUPPORTED: "`include` of a file whose text was not given.",
  FILE_MISSING: "The content of a file that is named here was not given.",
  EXTERNAL_MISSING: "An external secret does not exist.",
  PROFILE_UNKNOWN: "A profile was asked for that no service has.",
  CONFLICT: "Two settings say different things, or two take the same place.",

  // What Bowline does not do
  UNSUPPORTED_BUILD: "A service must be built; an agent only pulls images.",
  UNSUPPORTED_KEY: "The key is part of the specification, and not supported.",
  UNSUPPORTED_VALUE: "The key is supported, this value of it is not.",
  KEY_IGNORED: "The key has no effect here, and leaving it out changes nothing that matters.",
  VALUE_IGNORED: "A part of the value has no effect here.",
  HOST_PATH_RELATIVE: "A path of the host is relative, and an agent has no folder of the project.",

  // What the cluster's policy refuses
  POLICY_HOST_PATH: "A path of the host is mounted that the cluster's policy does not allow.",
  POLICY_PRIVILEGED: "The policy does not allow privileged containers.",
  POLICY_CAPABILITY: "The policy does not allow this capability.",
  POLICY_HOST_NETWORK: "The policy does not allow the host's or another container's network.",
  POLICY_HOST_NAMESPACE: "The policy does not allow the host's or another container's namespaces.",
  POLICY_DEVICE: "The policy does not allow this device of the host.",
  POLICY_SECURITY_OPTION: "The policy does not allow this security option.",
  POLICY_CGROUP: "The policy does not allow another cgroup.",
  POLICY_SYSCTL: "The policy does not allow this kernel parameter.",
  POLICY_EXTERNAL: "The policy does not allow this network or volume from outside the stack.",
  POLICY_DRIVER: "The policy does not allow this driver, or its options.",
  POLICY_PORT: "The policy does not allow this port of the host.",
} as const;

/** A stable reason. */
export type ComposeReason = keyof typeof composeReasons;
