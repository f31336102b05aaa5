"""Let CloudFormation update the policy of an SNS topic.

LocalStack 4.14 raises NotImplementedError for an update of AWS::SNS::TopicPolicy, reports the deployment as complete,
and keeps the previous policy. The same API call creates and updates a policy, so an update can run the code that
creates a policy.
"""

from localstack.runtime import hooks


@hooks.on_infra_start()
def update_topic_policies() -> None:
    from localstack.services.sns.resource_providers.aws_sns_topicpolicy import SNSTopicPolicyProvider

    SNSTopicPolicyProvider.update = SNSTopicPolicyProvider.create
