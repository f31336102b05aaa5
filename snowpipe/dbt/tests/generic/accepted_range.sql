{# Every value is between the bounds (inclusive). Nulls pass. #}
{% test accepted_range(model, column_name, at_least=none, at_most=none) %}
    SELECT {{ column_name }}
    FROM {{ model }}
    WHERE
        FALSE
        {% if at_least is not none %}OR {{ column_name }} < {{ at_least }}{% endif %}
        {% if at_most is not none %}OR {{ column_name }} > {{ at_most }}{% endif %}
{% endtest %}
