"""`alitok bench`: sampling speed beside the limits of this machine."""
