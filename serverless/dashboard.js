'use strict';
// One dashboard, whose panels follow the flow of the events. `milkrun status` shows the stage's health in a terminal.

const STAGE = '${sls:stage}';
const REGION = '${AWS::Region}';
const API = ['AWS/ApiGateway', ['ApiName', '${self:provider.apiName}', 'Stage', STAGE]];
const of = (fn) => ['AWS/Lambda', ['FunctionName', '${' + fn + 'LambdaFunction}']];
const MILKRUN = ['Milkrun', ['stage', STAGE]];
const STREAM = ['AWS/Kinesis', ['StreamName', '${GeofenceStream}']];
const queue = (name) => ['AWS/SQS', ['QueueName', '${' + name + '.QueueName}']];
const TABLE = ['AWS/DynamoDB', ['TableName', '${VisitsTable}']];
const TOPIC = ['AWS/SNS', ['TopicName', '${ArchiveTopic.TopicName}']];

const INDEX = (name) => ['AWS/DynamoDB', ['TableName', '${VisitsTable}', 'GlobalSecondaryIndexName', name]];

const line = ([namespace, dimensions], name, stat, label = name) => [namespace, name, ...dimensions, { stat, label }];

// One line for the sum of several metrics, which are not drawn individually.
const sum = (label, id, ...parts) => {
  const hidden = parts.map((part, i) => [...part.slice(0, -1), { ...part.at(-1), id: `${id}${i}`, visible: false }]);
  const expression = parts.map((_, i) => `FILL(${id}${i}, 0)`).join(' + ');
  return [...hidden, [{ expression, label, id }]];
};
const undeleted = (label, id, name) =>
  sum(label, id, ...['Visible', 'NotVisible'].map((kind) => line(queue(name), `ApproximateNumberOfMessages${kind}`, 'Maximum')));
// DynamoDB counts throttled reads and writes of the table and of its index in separate metrics, so these are added.
const throttled = sum(
  'table throttled', 'throttled',
  ...[TABLE, INDEX('there_now')].flatMap((of) => ['WriteThrottleEvents', 'ReadThrottleEvents'].map((name) => line(of, name, 'Sum'))),
);

const panel = (title, ...metrics) => ({
  type: 'metric',
  properties: { title, region: REGION, view: 'timeSeries', stacked: false, period: 60, metrics },
});

const rows = [
  [
    panel('Requests', line(API, 'Count', 'Sum', 'requests'), line(API, '5XXError', 'Sum', '5xx'), line(API, '4XXError', 'Sum', '4xx'), line(MILKRUN, 'throttled', 'Sum', '429')),
    panel('Response time, ms', line(API, 'Latency', 'p50', 'p50'), line(API, 'Latency', 'p99', 'p99'), line(MILKRUN, 'store_ms', 'p99', 'S3 p99'), line(MILKRUN, 'publish_ms', 'p99', 'Kinesis p99')),
    panel('Events', ...['accepted', 'duplicates', 'rejected', 'published', 'queued'].map((name) => line(MILKRUN, name, 'Sum'))),
  ],
  [
    panel('Functions: errors and throttles', ...['Ingest', 'Redrive', 'Consume', 'Check'].flatMap((fn) => [line(of(fn), 'Errors', 'Sum', `${fn} errors`), line(of(fn), 'Throttles', 'Sum', `${fn} throttled`)])),
    panel('Functions: concurrency', ...['Ingest', 'Redrive', 'Consume'].map((fn) => line(of(fn), 'ConcurrentExecutions', 'Maximum', fn))),
    panel('Lateness of events, s', line(MILKRUN, 'lateness_seconds', 'p50', 'p50'), line(MILKRUN, 'lateness_seconds', 'p99', 'p99')),
  ],
  [
    panel('Stream', line(STREAM, 'IncomingRecords', 'Sum', 'in'), line(STREAM, 'GetRecords.Records', 'Sum', 'out'), line(of('Consume'), 'Invocations', 'Sum', 'consumer runs'), line(STREAM, 'WriteProvisionedThroughputExceeded', 'Sum', 'throttled')),
    panel('Consumer lag, ms', line(of('Consume'), 'IteratorAge', 'Maximum', 'iterator age')),
    panel('Consumer', ...['consumed', 'set_aside', 'too_old', 'orphan_exits'].map((name) => line(MILKRUN, name, 'Sum')), ...throttled),
  ],
  [
    panel('Redrive', ...undeleted('waiting', 'redrive', 'RedriveQueue'), ...undeleted('dead letters', 'dead', 'DeadLetterQueue')),
    panel('Archive notifications', line(TOPIC, 'NumberOfNotificationsDelivered', 'Sum', 'delivered'), line(TOPIC, 'NumberOfNotificationsFailed', 'Sum', 'failed')),
    panel('Snowpipe', line(MILKRUN, 'pipe_lag_seconds', 'Maximum', 'oldest file, s'), line(MILKRUN, 'pipe_pending_files', 'Maximum', 'files waiting'), line(MILKRUN, 'pipe_deaf_seconds', 'Maximum', 'without notification, s'), line(MILKRUN, 'failed_loads', 'Maximum', 'failed loads')),
  ],
];

const widgets = rows.flatMap((row, y) => row.map((widget, x) => ({ ...widget, x: x * 8, y: y * 6, width: 8, height: 6 })));

const withDashboard = {
  Resources: {
    Dashboard: {
      Type: 'AWS::CloudWatch::Dashboard',
      Properties: {
        // Dashboard names are unique per account across regions.
        DashboardName: { 'Fn::Sub': `milkrun-${STAGE}-${REGION}` },
        DashboardBody: { 'Fn::Sub': JSON.stringify({ widgets }) },
      },
    },
  },
};

module.exports = async () => ({ true: withDashboard, false: {} });
