'use strict';
// Two things that plain `osls deploy` must not forget: the zips are built by ops/package.py, and stage `local`
// never meets a real account.
const { spawnSync } = require('node:child_process');
const path = require('node:path');

const isLoopback = (url) => {
  try {
    const { hostname } = new URL(url);
    return hostname === 'localhost' || hostname === '[::1]' || /^127(\.\d{1,3}){3}$/.test(hostname);
  } catch {
    return false;
  }
};

const OFFLINE = new Set(['package', 'print']);

class MilkrunPlugin {
  constructor(serverless) {
    this.serverless = serverless;
    this.refuseLocalOnRealAws(); // here, not in a hook: by then osls has asked STS who it is
    this.hooks = {
      'before:package:createDeploymentArtifacts': () => this.buildZips(),
      'before:deploy:function:packageFunction': () => this.buildZips(),
    };
  }

  fail(message) {
    throw new this.serverless.classes.Error(message);
  }

  refuseLocalOnRealAws() {
    if (this.serverless.service.provider.stage !== 'local') return;
    if (OFFLINE.has(this.serverless.processedInput.commands[0])) return;
    // A service's own variable goes before the general one, and one variable puts them all out of force.
    const { AWS_ENDPOINT_URL: url, AWS_IGNORE_CONFIGURED_ENDPOINT_URLS: ignored, ...others } = process.env;
    const urls = Object.keys(others).filter((name) => name.startsWith('AWS_ENDPOINT_URL_') && others[name]).map((name) => others[name]);
    if (!url || ignored === 'true' || ![url, ...urls].every(isLoopback)) {
      this.fail('Stage "local" needs AWS_ENDPOINT_URL with a loopback address (make up sets it); for AWS name a stage: --stage dev.');
    }
  }

  buildZips() {
    const root = this.serverless.serviceDir;
    const { architecture } = this.serverless.service.provider;
    const build = this.serverless.service.provider.stage === 'local' ? 'local' : architecture;
    const python = path.join(root, '.venv', 'bin', 'python');
    // A pipeline deploys the zips that its tests ran against; building others here would install code beside credentials.
    const options = process.env.MILKRUN_ZIPS === 'tested' ? ['--no-build'] : [];
    const made = spawnSync(python, ['-m', 'ops.package', build, ...options], { cwd: root, stdio: 'inherit' });
    if (made.error || made.status !== 0) this.fail('The zips could not be built; run `make package` to see why.');
  }
}

module.exports = MilkrunPlugin;
