{# A condition that every row fulfils (an unknown counts as fulfilled). #}
{% test holds(model, condition) %}
    SELECT * FROM {{ model }}
    WHERE NOT ({{ condition }})
{% endtest %}
