"""Metrics of several services in one text."""

from prometheus_client.parser import text_string_to_metric_families

from alitok.apps.serve.service import ServiceMetrics, merge_metrics


def test_metrics_of_replicas_are_labelled():
    one, other = ServiceMetrics(), ServiceMetrics()
    one.record_batch(3, 0.2)
    other.record_batch(5, 20.0)
    other.requests.labels("/v1/images", "POST", "200").inc()
    text = merge_metrics({"a": one.registry.collect(), "b": other.registry.collect()}).decode()
    assert text.count("# TYPE alitok_images_total counter") == 1
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["alitok_images_total", ("replica", "a")] == 3
    assert samples["alitok_images_total", ("replica", "b")] == 5
    assert samples["alitok_batch_seconds_bucket", ("le", "1.0"), ("replica", "a")] == 1
    assert samples["alitok_batch_seconds_bucket", ("le", "1.0"), ("replica", "b")] == 0
    posted = ("method", "POST"), ("replica", "b"), ("route", "/v1/images"), ("status", "200")
    assert samples["alitok_requests_total", *posted] == 1
