'use strict';
// Every alarm in one table. `warn` is read in the morning, `page` wakes somebody; docs/runbook.md has a section for
// each, under the alarm's name. docs/reference/metrics.yml says of each metric when CloudWatch has no data point of it;
// a test compares both with this table.

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

// An expression over metrics, each a minute's or `Period` seconds' worth.
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

// Messages that wait, and those that somebody has received and not deleted: a message that fails is nearly always one
// of the second kind.
const undeleted = (of) =>
  math('FILL(waiting, 0) + FILL(in_flight, 0)', 60, {
    waiting: queue(of, 'ApproximateNumberOfMessagesVisible', 'Maximum'),
    in_flight: queue(of, 'ApproximateNumberOfMessagesNotVisible', 'Maximum'),
  });

const over = (Threshold) => ({ ComparisonOperator: 'GreaterThanThreshold', Threshold });
const under = (Threshold) => ({ ComparisonOperator: 'LessThanThreshold', Threshold });
// `late` of the last `of` periods.
const periods = (seconds, of = 1, late = of) => ({ Period: seconds, EvaluationPeriods: of, DatapointsToAlarm: late });
const silenceIsBad = { TreatMissingData: 'breaching' };
const oncePipesAreChecked = { needs: 'checkPipes' };
const onceTrafficIsExpected = { needs: 'expectTraffic' };

// No alarm reads AWS/DynamoDB: such an alarm keeps its state while data is missing, whatever TreatMissingData says, and
// would ring on for ever. A throttled table shows as consume-errors and iterator-age.
const alarms = {
  // The way in
  'api-5xx': page('Over 1 % of requests (and at least three) were answered 5xx in five minutes.', over(1), periods(300),
    math('IF(failed >= 3, 100 * failed / asked, 0)', 300, { failed: api('5XXError', 'Sum'), asked: api('Count', 'Sum') })),
  'api-latency': warn('The slowest hundredth of the requests took over 3 s.', api('Latency', 'p99'), over(3000), periods(60, 5, 3)),
  'api-throttled': warn('Requests were answered 429: a client in a loop, or the stage\'s rate is too low.',
    milkrun('throttled', 'Sum'), over(100), periods(300)),
  'no-traffic': page('No request at all. The phones never all sleep.', api('Count', 'Sum'), under(1),
    { Period: 60, EvaluationPeriods: '${param:noTrafficMinutes}' }, silenceIsBad, onceTrafficIsExpected),
  'ingest-errors': page('The ingest function failed or ran out of time.', lambda('Ingest', 'Errors', 'Sum'), over(0), periods(60, 5, 2)),
  'ingest-throttled': page('Lambda throttled the ingest function.', lambda('Ingest', 'Throttles', 'Sum'), over(0), periods(60, 5, 2)),
  // The stream throttled something
  'redrive-errors': warn('The redrive function failed or ran out of time.', lambda('Redrive', 'Errors', 'Sum'), over(0), periods(300, 3, 2)),
  // Not the age of the oldest message: SQS leaves out of it what was received three times and not deleted.
  'redrive-waiting': warn('Claim checks have waited for 15 minutes: the stream goes on throttling.',
    over(0), periods(60, 15), undeleted('RedriveQueue')),
  'dead-letters': page('Claim checks ran out of tries: archived events that the consumer has not got.',
    over(0), periods(60), undeleted('DeadLetterQueue')),
  // The consumer
  'consume-errors': warn('The consumer failed, ran out of time, or crashed.', lambda('Consume', 'Errors', 'Sum'), over(0), periods(300, 3, 2)),
  'consume-throttled': warn('Lambda throttled the consumer.', lambda('Consume', 'Throttles', 'Sum'), over(0), periods(300, 3, 2)),
  'iterator-age': warn('The consumer is over 5 minutes behind the stream.', lambda('Consume', 'IteratorAge', 'Maximum'), over(300_000), periods(60, 5)),
  'iterator-age-hour': page('The consumer is over an hour behind; after six, batches go to S3 unread.',
    lambda('Consume', 'IteratorAge', 'Maximum'), over(3_600_000), periods(60, 5)),
  // IteratorAge has data only while batches are delivered, so a consumer that does not run at all needs an alarm of its own.
  'consume-stopped': both(page, 'Records arrive on the stream, and the consumer has not run for 15 minutes.', {
    'records-arrive': [stream('IncomingRecords', 'Sum'), over(0), periods(300, 3, 2)],
    'consumer-silent': [lambda('Consume', 'Invocations', 'Sum'), under(1), periods(300, 3), silenceIsBad],
  }),
  'given-up-batches': page('Batches reached the record age and were kept whole in S3, unread.',
    mapping('OnFailureDestinationDeliveredEventCount', 'Sum'), over(0), periods(60)),
  'lost-batches': page('Batches reached the record age and S3 did not take them either.',
    lambda('Consume', 'DestinationDeliveryFailures', 'Sum'), over(0), periods(60)),
  'set-aside': warn('Something can never succeed and was set aside.', milkrun('set_aside', 'Sum'), over(0), periods(300)),
  'set-aside-share': page('Over half of a batch was set aside: the sender, or we, changed something.',
    milkrun('set_aside_share', 'Maximum'), over(50), periods(300)),
  // The warehouse
  'archive-undelivered': page('The archive\'s topic could not tell a subscriber of new objects.',
    topic('ArchiveTopic', 'NumberOfNotificationsFailed', 'Sum'), over(0), periods(300)),
  'snowpipe-lag': warn('A file has waited for Snowpipe for over 15 minutes, or nobody could look.',
    milkrun('pipe_lag_seconds', 'Maximum'), over(900), periods(300, 3, 2), silenceIsBad, oncePipesAreChecked),
  'snowpipe-deaf': warn('New objects were archived, and the pipe has heard of none for 15 minutes.',
    milkrun('pipe_deaf_seconds', 'Maximum'), over(900), periods(300, 2), oncePipesAreChecked),
  'snowpipe-stopped': warn('A pipe is paused or stopped.', milkrun('pipe_stopped', 'Maximum'), over(0), periods(300, 2), oncePipesAreChecked),
  'failed-loads': warn('Snowpipe refused a file, wholly or in part: nothing loads it again by itself.',
    milkrun('failed_loads', 'Maximum'), over(0), periods(3600), oncePipesAreChecked),
  'check-errors': warn('The check of the pipes failed.', lambda('Check', 'Errors', 'Sum'), over(0), periods(900, 2)),
};

function warn(what, ...parts) {
  return { Type: 'AWS::CloudWatch::Alarm', topic: 'AlarmTopic', what, ...Object.assign({}, ...parts) };
}

function page(what, ...parts) {
  return { ...warn(what, ...parts), topic: 'PageTopic' };
}

// Rings while all of `parts` are in alarm; those alarms themselves tell nobody.
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

// The command that shows the cause; `milkrun status` names it for every other alarm.
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
  return text.startsWith('milkrun warehouse') ? text : `${text} --stage \${sls:stage}`; // that one reads SNOWFLAKE_*
};

module.exports = async ({ resolveVariable }) => {
  // Both switches must be on: a stage whose alarms are off stays silent whatever else it expects.
  const isOn = async (name) => [true, 'true'].includes(await resolveVariable(`param:${name}`));
  const resources = [];
  for (const [name, { Type, topic: topicId, what, needs, parts, ...rule }] of Object.entries(alarms)) {
    const told = {
      AlarmDescription: `${what} Look: ${command(name)}. What to do: \${param:runbook}#${name}`,
      ActionsEnabled: (await isOn('alarmsRing')) && (!needs || (await isOn(needs))),
      AlarmActions: [{ Ref: topicId }],
      OKActions: [{ Ref: topicId }],
    };
    if (!parts) {
      resources.push(plain(name, { ...rule, ...told }));
      continue;
    }
    for (const [part, rules] of Object.entries(parts)) {
      resources.push(plain(part, { ...Object.assign({}, ...rules), AlarmDescription: `A part of ${fullName(name)}.` }));
    }
    const AlarmRule = Object.keys(parts).map((part) => `ALARM("${fullName(part)}")`).join(' AND ');
    const DependsOn = Object.keys(parts).map(logicalId); // CloudWatch refuses a rule over alarms that do not exist
    resources.push([logicalId(name), { Type, DependsOn, Properties: { ...told, AlarmName: fullName(name), AlarmRule } }]);
  }
  return { Resources: Object.fromEntries(resources) };
};
