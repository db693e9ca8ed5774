"""From requests to images: settings, guidance, noise, oracle, engine and its kernels, pixel decoding, `Pipeline`."""

from alitok.sampling.settings import SampleRequest, SamplingConfig, SamplingOverrides

__all__ = ["SampleRequest", "SamplingConfig", "SamplingOverrides"]
