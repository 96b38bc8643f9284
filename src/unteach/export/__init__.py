"""From weights of any origin to a plain model or an adapter, compared with what was trained."""
