// Node loads this script before the Kinesis mock (NODE_OPTIONS=--require). The mock has no setting for its listen
// address and does not exit when LocalStack exits. The script makes each TCP server listen on 127.0.0.1, and ends the
// process as soon as LocalStack is no longer its parent.
const net = require("node:net");

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  if (typeof args[0] === "object" && args[0] !== null && "port" in args[0]) {
    args[0] = { ...args[0], host: "127.0.0.1" };
  } else if (typeof args[0] === "number" || (typeof args[0] === "string" && /^\d+$/.test(args[0]))) {
    if (typeof args[1] === "string") args[1] = "127.0.0.1";
    else args.splice(1, 0, "127.0.0.1");
  }
  return listen.apply(this, args);
};

// kinesis_mock_parent.py sets KINESIS_MOCK_PARENT.
const parent = Number(process.env.KINESIS_MOCK_PARENT) || process.ppid;
setInterval(() => process.ppid === parent || process.kill(process.pid, "SIGKILL"), 500).unref();
