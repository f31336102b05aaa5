{# Every value stands between the bounds, both included. Nulls pass: not_null is another test. #}
{% test accepted_range(model, column_name, at_least=none, at_most=none) %}
    SELECT {{ column_name }}
    FROM {{ model }}
    WHERE
        FALSE
        {% if at_least is not none %}OR {{ column_name }} < {{ at_least }}{% endif %}
        {% if at_most is not none %}OR {{ column_name }} > {{ at_most }}{% endif %}
{% endtest %}
