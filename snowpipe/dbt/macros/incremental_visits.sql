{# The table of a model that is built after this one, as the last run left it. A ref would be circular. #}
{% macro relation_of(model_name) -%}
    {{ api.Relation.create(this.database, this.schema if model_name == 'geofence_pair_heads' else 'MARTS', model_name) }}
{%- endmacro %}

{# The days within `reach` days of the given ones. #}
{% macro days_around(days, reach) -%}
    {% set around = {} %}
    {% for day in days %}
        {% set first = modules.datetime.datetime.strptime(day[:10], '%Y-%m-%d') %}
        {% for offset in range(-reach, reach + 1) %}
            {% do around.update({(first + modules.datetime.timedelta(days=offset)).strftime('%Y-%m-%d'): 1}) %}
        {% endfor %}
    {% endfor %}
    {% do return(around.keys() | sort) %}
{%- endmacro %}

{# The visits of pairs with late events, from `reach` days before these events to `reach` days after them; all visits
   if `reach` is none. #}
{% macro visits_near_late_events(reach) -%}
    {%- set ranges = values_of(
        "SELECT DISTINCT touched_from::DATE::VARCHAR || '/' || touched_until::DATE::VARCHAR FROM "
        ~ ref('touched_pairs') ~ " WHERE is_late"
    ) -%}
    {%- set days = {} -%}
    {%- do days_between(ranges, days) -%}
    SELECT
        visits.device_fence_key,
        visits.entered_date,
        pairs.touched_from,
        pairs.touched_until,
        {% for column in head_columns() %}
            visits.{{ column | replace('visit_', '') }} AS {{ column }}{{ ',' if not loop.last }}
        {% endfor %}
    FROM {{ relation_of('geofence_visits') }} AS visits
    INNER JOIN {{ ref('touched_pairs') }} AS pairs ON visits.device_fence_key = pairs.device_fence_key
    WHERE
        pairs.is_late
        {% if not days %} AND FALSE
        {% elif reach is not none %}
            AND {{ one_of_days('visits.entered_date', days_around(days, reach)) }}
            AND visits.entered_date >= DATEADD('day', -{{ reach }}, CAST(pairs.touched_from AS DATE))
            AND visits.entered_date <= DATEADD('day', {{ reach }}, CAST(pairs.touched_until AS DATE))
        {% endif %}
{%- endmacro %}

{# If the visits within 2 days of the late events do not suffice, read those within 16 days, and then all visits. That is
   needed, for example, for a pair whose last visit was half a year ago. #}
{% macro look_further() -%}
    {% set reached = namespace(days=2) %}
    {% for reach in (16, none) if not reads_everything() %}
        {% if reached.days is not none and some_visit_is_further_away(reached.days) %}
            {% do run_query('DELETE FROM ' ~ this) %}
            {% do run_query('INSERT INTO ' ~ this ~ ' ' ~ visits_near_late_events(reach)) %}
            {% set reached.days = reach %}
        {% else %}
            {% set reached.days = none %}
        {% endif %}
    {% endfor %}
{%- endmacro %}

{# Whether the visit before a pair's late events, or one of the two after them, exists but has not been read. #}
{% macro some_visit_is_further_away(reach) -%}
    {% do return(values_of(
        'SELECT pairs.device_fence_key FROM ' ~ ref('touched_pairs') ~ ' AS pairs'
        ~ ' LEFT JOIN ' ~ this ~ ' AS near ON pairs.device_fence_key = near.device_fence_key'
        ~ ' WHERE pairs.is_late AND pairs.first_entered_at IS NOT NULL'
        ~ ' GROUP BY pairs.device_fence_key, pairs.first_entered_at, pairs.touched_from, pairs.touched_until,'
        ~ ' pairs.entered_at'
        ~ ' HAVING (COUNT_IF(near.entered_at < pairs.touched_from) = 0'
        ~ ' AND pairs.first_entered_at < pairs.touched_from)'
        ~ ' OR (COUNT(DISTINCT IFF(near.entered_at > pairs.touched_until, near.entered_at, NULL)) < 2'
        ~ ' AND CAST(pairs.entered_at AS DATE) > DATEADD(\'day\', ' ~ reach ~ ', CAST(pairs.touched_until AS DATE)))'
        ~ ' LIMIT 1'
    ) | length > 0) %}
{%- endmacro %}

{# The days of the events that the windows read. #}
{% macro days_read() -%}
    {% if not execute %}{% do return([]) %}{% endif %}
    {% set days = {} %}
    {% for day in values_of('SELECT DISTINCT event_date::VARCHAR FROM ' ~ ref('touched_days') ~ ' WHERE is_changed') %}
        {% do days.update({day[:10]: 1}) %}
    {% endfor %}
    {% set ranges %}
        SELECT DISTINCT reads_from::DATE::VARCHAR || '/' || reads_until::DATE::VARCHAR
        FROM {{ ref('visit_windows') }} WHERE is_late
    {% endset %}
    {% do days_between(values_of(ranges), days) %}
    {% do return(days.keys() | sort) %}
{%- endmacro %}

{# Add every day of ranges such as 2026-11-16/2026-11-18 to `days`. #}
{% macro days_between(ranges, days) -%}
    {% set form, datetime = '%Y-%m-%d', modules.datetime %}
    {% for range_ in ranges %}
        {% set first = datetime.datetime.strptime(range_.split('/')[0][:10], form) %}
        {% set last = datetime.datetime.strptime(range_.split('/')[1][:10], form) %}
        {% for offset in range((last - first).days + 1) %}
            {% do days.update({(first + datetime.timedelta(days=offset)).strftime(form): 1}) %}
        {% endfor %}
    {% endfor %}
{%- endmacro %}

{# Fail if a model that reads only another model's new rows is rebuilt alone. #}
{% macro refuse_alone() -%}
    {% if execute and not is_incremental() and not reads_everything() %}
        {% do exceptions.raise_compiler_error(
            this.name ~ ' depends on what each run has read, so it cannot be rebuilt alone. Run: dbt build --full-refresh'
        ) %}
    {% endif %}
{%- endmacro %}

{# The columns of a pair's last visit in geofence_pair_heads. #}
{% macro head_columns() -%}
    {% do return([
        'device_id', 'geofence_tag', 'geofence_external_id', 'entered_at', 'exited_at', 'entered_event_id',
        'exited_event_id', 'app_dwell_seconds', 'last_seen_at', 'visit_last_event_at', 'crossings', 'loaded_at'
    ]) %}
{%- endmacro %}
