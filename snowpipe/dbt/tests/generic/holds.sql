{# Every row fulfils a condition (null counts as fulfilled). #}
{% test holds(model, condition) %}
    SELECT * FROM {{ model }}
    WHERE NOT ({{ condition }})
{% endtest %}
