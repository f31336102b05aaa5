'use strict';
// Every alarm in one table. `warn` can wait until the morning, `page` wakes somebody. docs/runbook.md has a section with
// each alarm's name, and docs/reference/metrics.yml says when a metric has no data points; a test compares both with
// this table.

const milkrun = (name, stat) => metric('Milkrun', name, { stage: '${sls:stage}' }, stat);
const api = (name, stat) => metric('AWS/ApiGateway', name, { ApiName: '${self:provider.apiName}', Stage: '${sls:stage}' }, stat);
const lambda = (of, name, stat) => metric('AWS/Lambda', name, { FunctionName: { Ref: `${of}LambdaFunction` } }, stat);
const mapping = (name, stat) =>
  metric('AWS/Lambda', name, { EventSourceMappingUUID: { Ref: 'ConsumeEventSourceMappingKinesisGeofenceStream' } }, stat);
const queue = (of, name, stat) => metric('AWS/SQS', name, { QueueName: { 'Fn::GetAtt': [of, 'QueueName'] } }, stat);
const stream = (name, stat) => metric('AWS/Kinesis', name, { StreamName: { Ref: 'GeofenceStream' } }, stat);
const topic = (of, name, stat) => metric('AWS/SNS', name, { TopicName: { 'Fn::GetAtt': [of, 'TopicName'] } }, stat);

function metric(Namespace, MetricName, dimensions, stat) {
  const Dimensions = Object.entries(dimensions).map(([Name, Value]) => ({ Name, Value }));
  const statistic = /^p\d/.test(stat) ? { ExtendedStatistic: stat } : { Statistic: stat };
  return { Namespace, MetricName, Dimensions, ...statistic };
}

// An expression over metrics, each aggregated over `Period` seconds.
const math = (Expression, Period, metrics) => ({
  Metrics: [
    { Id: 'result', Expression, ReturnData: true },
    ...Object.entries(metrics).map(([Id, { Namespace, MetricName, Dimensions, Statistic }]) => ({
      Id,
      ReturnData: false,
      MetricStat: { Metric: { Namespace, MetricName, Dimensions }, Period, Stat: Statistic },
    })),
  ],
});

// Visible messages, and messages in flight (received but not deleted), because a message that keeps failing is in flight
// most of the time. FILL also fills the latest minutes, whose data points CloudWatch does not have yet, so an alarm on
// this must tolerate some periods that do not breach.
const undeleted = (of) =>
  math('FILL(waiting, 0) + FILL(in_flight, 0)', 60, {
    waiting: queue(of, 'ApproximateNumberOfMessagesVisible', 'Maximum'),
    in_flight: queue(of, 'ApproximateNumberOfMessagesNotVisible', 'Maximum'),
  });

const over = (Threshold) => ({ ComparisonOperator: 'GreaterThanThreshold', Threshold });
const under = (Threshold) => ({ ComparisonOperator: 'LessThanThreshold', Threshold });
// Fire if at least `late` of the last `of` periods breach the threshold.
const periods = (seconds, of = 1, late = of) => ({ Period: seconds, EvaluationPeriods: of, DatapointsToAlarm: late });
const silenceIsBad = { TreatMissingData: 'breaching' };
const oncePipesAreChecked = { needs: 'checkPipes' };
const onceLoadsAreChecked = { needs: 'checkLoads' };
const onceTrafficIsExpected = { needs: 'expectTraffic' };

// No alarm uses AWS/DynamoDB, because such an alarm keeps its state while data is missing, regardless of
// TreatMissingData, and would never end. A throttled table causes iterator-age.
const alarms = {
  // Ingest
  'api-5xx': page('Within five minutes, over 1 % of the requests (and at least three) got a 5xx response.', over(1), periods(300),
    math('IF(failed >= 3, 100 * failed / asked, 0)', 300, { failed: api('5XXError', 'Sum'), asked: api('Count', 'Sum') })),
  'api-latency': warn('The 99th percentile of the API\'s latency is over 3 s.', api('Latency', 'p99'), over(3000), periods(60, 5, 3)),
  'api-throttled': warn('Within five minutes, over 100 requests got a 429 response: a client sends in a loop, or the stage\'s rate limit or quota is too low.',
    milkrun('throttled', 'Sum'), over(100), periods(300)),
  'device-events': warn('One device sent more events within an hour than a truck normally sends.',
    milkrun('events_per_device', 'Maximum'), over('${param:eventsPerDeviceHour}'), periods(300)),
  'device-mismatch': warn('Events were rejected, because the token was issued for another device.',
    milkrun('rejected_device_mismatch', 'Sum'), over(0), periods(300)),
  // API Gateway's Count also includes requests without a valid key, such as those of scanners.
  'no-traffic': page('The ingest function received no requests, although phones send at all hours.', lambda('Ingest', 'Invocations', 'Sum'), under(1),
    { Period: 60, EvaluationPeriods: '${param:noTrafficMinutes}' }, silenceIsBad, onceTrafficIsExpected),
  'ingest-errors': page('The ingest function failed or timed out.', lambda('Ingest', 'Errors', 'Sum'), over(0), periods(60, 5, 2)),
  'ingest-throttled': page('Lambda throttled the ingest function.', lambda('Ingest', 'Throttles', 'Sum'), over(0), periods(60, 5, 2)),
  // Redrive
  'redrive-errors': warn('The redrive function failed or timed out.', lambda('Redrive', 'Errors', 'Sum'), over(0), periods(300, 3, 2)),
  // Not SQS's metric for the age of the oldest message, because it ignores messages that keep failing.
  'redrive-waiting': warn('Claim checks have waited in the redrive queue for 15 minutes, usually because the stream is still throttled.',
    over(0), periods(60, 20, 15), undeleted('RedriveQueue')),
  'dead-letters': page('Claim checks used up their attempts, so the consumer has not received their archived events.',
    over(0), periods(60, 5, 1), undeleted('DeadLetterQueue')),
  // Consumer
  'consume-errors': warn('The consumer failed, timed out or crashed.', lambda('Consume', 'Errors', 'Sum'), over(0), periods(300, 3, 2)),
  'consume-throttled': warn('Lambda throttled the consumer.', lambda('Consume', 'Throttles', 'Sum'), over(0), periods(300, 3, 2)),
  'iterator-age': warn('The consumer is over 5 minutes behind the stream.', lambda('Consume', 'IteratorAge', 'Maximum'), over(300_000), periods(300, 3, 2)),
  'iterator-age-hour': page('The consumer is over an hour behind the stream; after six hours, batches go to S3 unprocessed.',
    lambda('Consume', 'IteratorAge', 'Maximum'), over(3_600_000), periods(300, 3, 1)),
  // IteratorAge has data only while batches are delivered, so a consumer that does not run needs its own alarm.
  'consume-stopped': both(page, 'Records arrive on the stream, but the consumer has not run for 15 minutes.', {
    'records-arrive': [stream('IncomingRecords', 'Sum'), over(0), periods(300, 3, 2)],
    'consumer-silent': [lambda('Consume', 'Invocations', 'Sum'), under(1), periods(300, 3), silenceIsBad],
  }),
  'given-up-batches': page('Batches reached the maximum record age and were written to S3 unprocessed.',
    mapping('OnFailureDestinationDeliveredEventCount', 'Sum'), over(0), periods(60)),
  'lost-batches': page('Batches reached the maximum record age, and writing them to S3 failed as well.',
    lambda('Consume', 'DestinationDeliveryFailures', 'Sum'), over(0), periods(60)),
  'set-aside': warn('Records that can never be processed were quarantined.', milkrun('set_aside', 'Sum'), over(0), periods(300)),
  'set-aside-share': page('Over half of a batch was quarantined, probably because the sender or the stage changed.',
    milkrun('set_aside_share', 'Maximum'), over(50), periods(300)),
  // Warehouse
  'archive-undelivered': page('The archive\'s topic could not notify a subscriber of new objects.',
    topic('ArchiveTopic', 'NumberOfNotificationsFailed', 'Sum'), over(0), periods(300)),
  'snowpipe-lag': warn('A file has waited for Snowpipe for over 15 minutes, or the pipes could not be checked.',
    milkrun('pipe_lag_seconds', 'Maximum'), over(900), periods(300, 3, 2), silenceIsBad, oncePipesAreChecked),
  'snowpipe-deaf': warn('Objects were archived, but for 15 minutes a pipe has received no notification of them.',
    milkrun('pipe_deaf_seconds', 'Maximum'), over(900), periods(300, 2), oncePipesAreChecked),
  'snowpipe-stopped': warn('A pipe is paused or stopped.', milkrun('pipe_stopped', 'Maximum'), over(0), periods(300, 2), oncePipesAreChecked),
  'failed-loads': warn('Snowpipe failed to load a file or part of it, and will not load it again automatically.',
    milkrun('failed_loads', 'Maximum'), over(0), periods(3600), onceLoadsAreChecked),
  // The period is an hour, because failed loads are checked once per hour. If the checks of the pipes fail, snowpipe-lag fires earlier.
  'check-errors': warn('The pipe check failed.', lambda('Check', 'Errors', 'Sum'), over(0), periods(3600, 2)),
};

function warn(what, ...parts) {
  return { Type: 'AWS::CloudWatch::Alarm', topic: 'AlarmTopic', what, ...Object.assign({}, ...parts) };
}

function page(what, ...parts) {
  return { ...warn(what, ...parts), topic: 'PageTopic' };
}

// A composite alarm that fires while all of `parts` are in alarm; these parts notify nobody.
function both(loudness, what, parts) {
  return { ...loudness(what), Type: 'AWS::CloudWatch::CompositeAlarm', parts };
}

const logicalId = (name) => name.split('-').map((word) => word[0].toUpperCase() + word.slice(1)).join('') + 'Alarm';
const fullName = (name) => `milkrun-\${sls:stage}-${name}`;

function plain(name, rule) {
  const Properties = { TreatMissingData: 'notBreaching', ...rule, AlarmName: fullName(name) };
  if (Properties.Metrics) delete Properties.Period;
  return [logicalId(name), { Type: 'AWS::CloudWatch::Alarm', Properties }];
}

// The commands that show the causes of these alarms. For all other alarms, it is `milkrun status`.
const commands = {
  'no-traffic': 'milkrun smoke',
  'redrive-waiting': 'milkrun redrive',
  'dead-letters': 'milkrun redrive',
  'given-up-batches': 'milkrun replay --on-failure --dry-run',
  'set-aside': 'milkrun quarantine',
  'set-aside-share': 'milkrun quarantine',
  'archive-undelivered': 'milkrun warehouse bootstrap',
  'snowpipe-lag': 'milkrun warehouse status',
  'snowpipe-deaf': 'milkrun warehouse status',
  'snowpipe-stopped': 'milkrun warehouse status',
  'failed-loads': 'milkrun warehouse validate',
};
const command = (name) => {
  const text = commands[name] ?? 'milkrun status';
  return text.startsWith('milkrun warehouse') ? text : `${text} --stage \${sls:stage}`; // has no --stage, but reads SNOWFLAKE_*
};

module.exports = async ({ resolveVariable }) => {
  // An alarm is enabled if `alarmsRing` and, if given, the parameter named by `needs` are true. A disabled alarm notifies nobody.
  const isOn = async (name) => [true, 'true'].includes(await resolveVariable(`param:${name}`));
  const level = await resolveVariable('param:logLevel');
  if (!['DEBUG', 'INFO'].includes(level)) {
    throw new Error(`logLevel is "${level}": set it to INFO or DEBUG. Other levels would drop the log lines that contain the metrics of alarms.`);
  }
  const resources = [];
  for (const [name, { Type, topic: topicId, what, needs, parts, ...rule }] of Object.entries(alarms)) {
    const actions = {
      AlarmDescription: `${what} To find the cause, run: ${command(name)}. What to do: \${param:runbook}#${name}`,
      ActionsEnabled: (await isOn('alarmsRing')) && (!needs || (await isOn(needs))),
      AlarmActions: [{ Ref: topicId }],
      OKActions: [{ Ref: topicId }],
    };
    if (!parts) {
      // CloudWatch notifies only when the state changes, and enabling an alarm does not change it. If missing data made a
      // disabled alarm active, it would notify nobody once it is enabled. (Amazon CloudWatch API Reference: "PutMetricAlarm".)
      const disabled = actions.ActionsEnabled ? {} : { TreatMissingData: 'notBreaching' };
      resources.push(plain(name, { ...rule, ...disabled, ...actions }));
      continue;
    }
    for (const [part, rules] of Object.entries(parts)) {
      resources.push(plain(part, { ...Object.assign({}, ...rules), AlarmDescription: `A part of the composite alarm ${fullName(name)}.` }));
    }
    const AlarmRule = Object.keys(parts).map((part) => `ALARM("${fullName(part)}")`).join(' AND ');
    const DependsOn = Object.keys(parts).map(logicalId); // CloudWatch rejects a rule with alarms that do not exist yet
    resources.push([logicalId(name), { Type, DependsOn, Properties: { ...actions, AlarmName: fullName(name), AlarmRule } }]);
  }
  return { Resources: Object.fromEntries(resources) };
};
