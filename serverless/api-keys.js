'use strict';
// The app's API keys. Parameter `apiKeys` lists the live slots: one, or two while a key is rotated (docs/deploy.md,
// "Rotate the API key"). Each key has its own usage plan, so throttle and quota apply per key, and a plan's usage shows
// whether its key is still used. (Amazon API Gateway Developer Guide: "Usage plans and API keys for REST APIs".)

const SLOTS = ['1', '2'];

module.exports = async ({ resolveVariable }) => {
  const param = (name) => resolveVariable(`param:${name}`);
  const stage = await resolveVariable('sls:stage');
  const deployment = `ApiGatewayDeployment${await resolveVariable('sls:instanceId')}`; // this resource creates the stage
  const live = String(await param('apiKeys')).split(',').map((slot) => slot.trim());
  if (!live.length || new Set(live).size < live.length || live.some((slot) => !SLOTS.includes(slot))) {
    throw new Error(`apiKeys is "${live}": set it to the live slots, "1", "2" or "1,2".`);
  }
  // In stage `local` the first key keeps its value, so that apps need no new settings when the stack is created again.
  const fixed = (await param('emulator')) ? await resolveVariable("env:MILKRUN_API_KEY, 'milkrun-local-key-for-no-other-stage'") : undefined;
  const limits = {
    Throttle: { RateLimit: await param('throttleRate'), BurstLimit: await param('throttleBurst') },
    Quota: { Limit: await param('quotaPerDay'), Period: 'DAY' },
  };
  const resources = (slot) => {
    const suffix = slot === '1' ? '' : `-${slot}`; // the names of slot 1 have no number, because slot 2 was added later
    const plan = slot === '1' ? 'ApiGatewayUsagePlan' : `ApiGatewayUsagePlan${slot}`;
    return {
      [`ApiGatewayApiKey${slot}`]: {
        Type: 'AWS::ApiGateway::ApiKey',
        DependsOn: deployment,
        Properties: {
          Enabled: true,
          Name: `milkrun-${stage}-app${suffix}`,
          Description: `The mobile app's key ${slot} for stage ${stage}.`,
          StageKeys: [{ RestApiId: { Ref: 'ApiGatewayRestApi' }, StageName: stage }],
          ...(slot === '1' && fixed && { Value: fixed }),
        },
      },
      [plan]: {
        Type: 'AWS::ApiGateway::UsagePlan',
        DependsOn: deployment,
        Properties: {
          ApiStages: [{ ApiId: { Ref: 'ApiGatewayRestApi' }, Stage: stage }],
          Description: `Usage plan for key ${slot} of stage ${stage}`,
          UsagePlanName: `milkrun-${stage}${suffix}`,
          ...limits,
        },
      },
      [`ApiGatewayUsagePlanKey${slot}`]: {
        Type: 'AWS::ApiGateway::UsagePlanKey',
        Properties: {
          KeyId: { Ref: `ApiGatewayApiKey${slot}` },
          KeyType: 'API_KEY',
          UsagePlanId: { Ref: plan },
        },
      },
    };
  };
  return { Resources: Object.assign({}, ...live.map(resources)) };
};
