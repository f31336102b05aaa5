'use strict';
// API Gateway's own error responses, as problem+json like the function's. LocalStack ignores these resources, so tests
// check them in the template. docs/openapi.yaml marks these responses with `x-given-by: gateway`.

const AGAIN = 'Send the identical batch again.';
// Logical id: [response type, status, code, detail, Retry-After in seconds, other fields].
const responses = {
  GatewayThrottled: ['THROTTLED', 429, 'throttled', 'Send the identical batch again after the time in Retry-After.', 5],
  GatewayQuotaExceeded: ['QUOTA_EXCEEDED', 429, 'quota_exceeded', "This API key has used up its daily quota. Keep the batch and send it again later.", 3600],
  GatewayInvalidApiKey: ['INVALID_API_KEY', 403, 'invalid_api_key', "Send the stage's API key in the header x-api-key."],
  GatewayAccessDenied: ['ACCESS_DENIED', 403, 'access_denied', 'Access to this path is denied.'],
  GatewayMissingToken: ['MISSING_AUTHENTICATION_TOKEN', 403, 'no_such_path', 'There is no such path; events go to POST /v1/events.'],
  GatewayRequestTooLarge: ['REQUEST_TOO_LARGE', 413, 'body_too_large', 'The body is larger than 1048576 bytes: split the batch and send its parts.', undefined, { limit: 1048576 }],
  GatewayUnsupportedMediaType: ['UNSUPPORTED_MEDIA_TYPE', 415, 'unsupported_media_type', 'Send application/json or application/x-ndjson.'],
  GatewayIntegrationFailure: ['INTEGRATION_FAILURE', 504, 'no_answer', `The function did not answer. ${AGAIN}`, 2],
  GatewayIntegrationTimeout: ['INTEGRATION_TIMEOUT', 504, 'no_answer_in_time', `The function did not answer in time. ${AGAIN}`, 2],
  GatewayServerError: ['DEFAULT_5XX', 500, 'server_error', AGAIN, 2],
  GatewayClientError: ['DEFAULT_4XX', undefined, 'refused_by_gateway', 'The gateway refused the request.'],
};
const TITLES = {
  403: 'Forbidden',
  413: 'Content Too Large',
  415: 'Unsupported Media Type',
  429: 'Too Many Requests',
  500: 'Internal Server Error',
  504: 'Gateway Timeout',
};

function gatewayResponse([ResponseType, status, code, detail, retryAfter, facts]) {
  const header = (name, value) => [`gatewayresponse.header.${name}`, `'${value}'`];
  // Clients can set $context.requestId with a header, but only API Gateway sets the extended one.
  // (Amazon API Gateway Developer Guide: "Variables for data transformations for API Gateway".)
  const request_id = '$context.extendedRequestId';
  const problem = { type: 'about:blank', status, title: TITLES[status] ?? 'Refused', code, detail, ...facts, request_id };
  return {
    Type: 'AWS::ApiGateway::GatewayResponse',
    Properties: {
      RestApiId: { Ref: 'ApiGatewayRestApi' },
      ResponseType,
      ...(status && { StatusCode: String(status) }),
      ResponseParameters: Object.fromEntries([
        header('Content-Type', 'application/problem+json'),
        ...(retryAfter ? [header('Retry-After', retryAfter)] : []),
      ]),
      ResponseTemplates: { 'application/json': JSON.stringify(problem) },
    },
  };
}

module.exports = async ({ resolveVariable }) => ({
  Resources: Object.fromEntries(Object.entries(responses).map(([id, response]) => [id, gatewayResponse(response)])),
  extensions: {
    // A deployment is a copy of the API. Without this dependency, the copy could be made before a response is changed, and
    // the change would take effect only at the next deployment.
    [`ApiGatewayDeployment${await resolveVariable('sls:instanceId')}`]: { DependsOn: Object.keys(responses) },
  },
});
