'use strict';
// Makes `osls deploy` build the zips with ops/package.py, and prevents stage `local` from being deployed to a real
// account.
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
    this.refuseLocalOnRealAws(); // called here and not in a hook, because osls calls STS before the first hook
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
    // AWS_ENDPOINT_URL_<SERVICE> overrides AWS_ENDPOINT_URL, and AWS_IGNORE_CONFIGURED_ENDPOINT_URLS disables both.
    const { AWS_ENDPOINT_URL: url, AWS_IGNORE_CONFIGURED_ENDPOINT_URLS: ignored, ...others } = process.env;
    const urls = Object.keys(others).filter((name) => name.startsWith('AWS_ENDPOINT_URL_') && others[name]).map((name) => others[name]);
    if (!url || ignored === 'true' || ![url, ...urls].every(isLoopback)) {
      this.fail('Stage "local" needs AWS_ENDPOINT_URL with a loopback address (make up sets it). To deploy to AWS, choose another stage, such as --stage dev.');
    }
  }

  buildZips() {
    const root = this.serverless.serviceDir;
    const { architecture } = this.serverless.service.provider;
    const build = this.serverless.service.provider.stage === 'local' ? 'local' : architecture;
    const python = path.join(root, '.venv', 'bin', 'python');
    // CI deploys the tested zips; building here would install packages in a job with credentials.
    const options = process.env.MILKRUN_ZIPS === 'tested' ? ['--no-build'] : [];
    const made = spawnSync(python, ['-m', 'ops.package', build, ...options], { cwd: root, stdio: 'inherit' });
    if (made.error || made.status !== 0) this.fail('The zips could not be built; run `make package` to see why.');
  }
}

module.exports = MilkrunPlugin;
