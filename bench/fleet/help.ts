/** What `--help` says. */
export const help = `npm run fleet: up to 10,000 simulated agents in one process, to size an installation.

They speak the real protocol, each on a connection of its own; what they run is simulated.
Without --server one is started in a temporary folder, used, and removed.

  npm run fleet -- --agents 200
  npm run fleet -- --agents 1000 --duration 5m --publish-rate 5 --agents-per-publish 20
  npm run fleet -- --agents 500 --misbehave slow-reader=5,half-open=5,duplicate=2,storm=400
  npm run fleet -- --server https://bowline.example.com --ca-file ca.pem --token-file token --agents 2000
  npm run -s fleet -- --server http://127.0.0.1:8080 --operator-token-file .bowline/admin-token --output json

Where to
  --server URL             the server; default: one of its own
  --ca-file FILE           PEM of the CA to trust there instead of the system's (BOWLINE_CA_FILE)
  --token-file FILE        a registration token with as many uses as agents (BOWLINE_REGISTRATION_TOKEN):
                           token create --cluster NAME --max-uses 2000, in a cluster with --allow-bulk-enrolment
  --operator-token-file FILE  an API token (BOWLINE_TOKEN_FILE, BOWLINE_TOKEN). With it the run publishes, and
                           compares at the end; without --token-file it makes a cluster, and removes it
  --keep                   leave the cluster that it made, with its agents
  --server-pid PID         a server on this machine, whose memory and CPU are shown
  --server-flag NAME=VALUE a setting of the server that it starts, e.g. dials-per-second=1000; repeatable

The agents
  --agents N               1 to 10000; default 100
  --run-ms FROM..TO        how long a command takes; default 50..500
  --fail-rate SHARE        attempts that fail, 0 to 1; default 0
  --heartbeat-ms MS        default: what the server says
  --source-addresses N     loopback addresses (127.0.0.1, 127.0.0.2, …) that they dial from, where the server
                           is on this machine; default: one per 2000 agents
  --misbehave KIND=COUNT   from a quarter of the time on; repeatable, or with commas:
                             slow-reader  reads nothing any more, while it is told a lot
                             half-open    its connection dies without a word to either end
                             clock-skew   its clock is wrong, half ahead and half behind
                             duplicate    a second process has its identity
                             storm        all of them are cut off at once, and come back
  --clock-skew-ms MS       how wrong; default 50000, within what a server tolerates

The load
  --duration TIME          90s, 10m, 2h; default 60s, from the moment when all serve
  --publish-rate N         publishes per second; default 1, 0 without an API token
  --agents-per-publish N   default 10

The run
  --seed N                 repeats its random numbers; default: a new one, which the report has
  --output text|json       json: the report alone, on stdout
  --help

Exit codes: 0 done; 1 a result was lost or doubled, or something did not become LIVE; 2 wrong usage;
4 not allowed; 5 server not reached.
`;
