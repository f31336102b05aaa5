'use strict';
// Every alarm in one table. `warn` is read in the morning, `page` wakes somebody; docs/runbook.md has a section for
// each, under the alarm's name, and a test sees to it.

const milkrun = (name, stat) => metric('Milkrun', name, { stage: '${sls:stage}' }, stat);
const api = (name, stat) => metric('AWS/ApiGateway', name, { ApiName: '${self:provider.apiName}', Stage: '${sls:stage}' }, stat);
const lambda = (of, name, stat) => metric('AWS/Lambda', name, { FunctionName: { Ref: `${of}LambdaFunction` } }, stat);
const mapping = (name, stat) =>
  metric('AWS/Lambda', name, { EventSourceMappingUUID: { Ref: 'ConsumeEventSourceMappingKinesisGeofenceStream' } }, stat);
const queue = (of, name, stat) => metric('AWS/SQS', name, { QueueName: { 'Fn::GetAtt': [of, 'QueueName'] } }, stat);
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

const over = (Threshold) => ({ ComparisonOperator: 'GreaterThanThreshold', Threshold });
const under = (Threshold) => ({ ComparisonOperator: 'LessThanThreshold', Threshold });
// `late` of the last `of` periods.
const periods = (seconds, of = 1, late = of) => ({ Period: seconds, EvaluationPeriods: of, DatapointsToAlarm: late });
const silenceIsBad = { TreatMissingData: 'breaching' };
const whenPipesAreChecked = { ActionsEnabled: '${param:checkPipes}' };

const alarms = {
  // The way in
  'api-5xx': page('Over 1 % of requests (and at least three) were answered 5xx in five minutes.', over(1), periods(300),
    math('IF(failed >= 3, 100 * failed / asked, 0)', 300, { failed: api('5XXError', 'Sum'), asked: api('Count', 'Sum') })),
  'api-latency': warn('The slowest hundredth of the requests took over 3 s.', api('Latency', 'p99'), over(3000), periods(60, 5, 3)),
  'api-throttled': warn('Requests were answered 429: a client in a loop, or the stage\'s rate is too low.',
    milkrun('throttled', 'Sum'), over(100), periods(300)),
  'no-traffic': page('No request at all. The phones never all sleep.', api('Count', 'Sum'), under(1),
    { Period: 60, EvaluationPeriods: '${param:noTrafficMinutes}' }, silenceIsBad),
  'ingest-errors': page('The ingest function failed or ran out of time.', lambda('Ingest', 'Errors', 'Sum'), over(0), periods(60, 5, 2)),
  'ingest-throttled': page('The ingest function was refused a place to run.', lambda('Ingest', 'Throttles', 'Sum'), over(0), periods(60, 5, 2)),
  // The stream refused something
  'redrive-errors': warn('The redrive function failed or ran out of time.', lambda('Redrive', 'Errors', 'Sum'), over(0), periods(300, 3, 2)),
  'redrive-age': warn('A claim check has waited for over 15 minutes: the stream goes on refusing.',
    queue('RedriveQueue', 'ApproximateAgeOfOldestMessage', 'Maximum'), over(900), periods(60, 3)),
  'dead-letters': page('Claim checks ran out of tries: archived events that the consumer has not got.',
    queue('DeadLetterQueue', 'ApproximateNumberOfMessagesVisible', 'Maximum'), over(0), periods(60)),
  // The consumer
  'consume-errors': warn('The consumer failed, ran out of time, or crashed.', lambda('Consume', 'Errors', 'Sum'), over(0), periods(300, 3, 2)),
  'consume-throttled': warn('The consumer was refused a place to run.', lambda('Consume', 'Throttles', 'Sum'), over(0), periods(300, 3, 2)),
  'iterator-age': warn('The consumer is over 5 minutes behind the stream.', lambda('Consume', 'IteratorAge', 'Maximum'), over(300_000), periods(60, 5)),
  'iterator-age-hour': page('The consumer is over an hour behind; after six, batches go to S3 unread.',
    lambda('Consume', 'IteratorAge', 'Maximum'), over(3_600_000), periods(60, 5)),
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
    milkrun('pipe_lag_seconds', 'Maximum'), over(900), periods(300, 3, 2), silenceIsBad, whenPipesAreChecked),
  'snowpipe-deaf': warn('New objects were archived, and the pipe has heard of none for 15 minutes.',
    milkrun('pipe_deaf_seconds', 'Maximum'), over(900), periods(300, 2), whenPipesAreChecked),
  'snowpipe-stopped': warn('A pipe is paused or stopped.', milkrun('pipe_stopped', 'Maximum'), over(0), periods(300, 2), whenPipesAreChecked),
  'failed-loads': warn('Snowpipe refused a file, wholly or in part: nothing loads it again by itself.',
    milkrun('failed_loads', 'Maximum'), over(0), periods(3600), whenPipesAreChecked),
  'check-errors': warn('The check of the pipes failed.', lambda('Check', 'Errors', 'Sum'), over(0), periods(900, 2)),
};

function warn(what, ...parts) {
  return alarm('AlarmTopic', what, parts);
}

function page(what, ...parts) {
  return alarm('PageTopic', what, parts);
}

function alarm(topicId, what, parts) {
  const rule = Object.assign({ TreatMissingData: 'notBreaching', ActionsEnabled: '${param:alarmsRing}' }, ...parts);
  if (rule.Metrics) delete rule.Period;
  return { AlarmDescription: what, AlarmActions: [{ Ref: topicId }], OKActions: [{ Ref: topicId }], ...rule };
}

const logicalId = (name) => name.split('-').map((word) => word[0].toUpperCase() + word.slice(1)).join('') + 'Alarm';

module.exports = async () => ({
  Resources: Object.fromEntries(
    Object.entries(alarms).map(([name, rule]) => [
      logicalId(name),
      {
        Type: 'AWS::CloudWatch::Alarm',
        Properties: {
          ...rule,
          AlarmName: `milkrun-\${sls:stage}-${name}`,
          AlarmDescription: `${rule.AlarmDescription} What to do: docs/runbook.md#${name}`,
        },
      },
    ]),
  ),
});
