//! Schemas of the parts that come from Kubernetes' own types, with the limits those types leave to the API server.
//!
//! A selector that the API server would refuse in a NetworkPolicy is refused here already: a policy that can't
//! be written would leave the user with a resource that looks accepted and does nothing. The bounds also keep
//! the CEL rules inside the API server's cost budget.

use schemars::{Schema, SchemaGenerator, json_schema};

/// What the API server takes as a label key: an optional DNS prefix and a name of up to 63 characters.
const LABEL_KEY: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
/// What the API server takes as a label value; empty is one.
const LABEL_VALUE: &str = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$";
/// A DNS label: what a namespace may be called.
const DNS_LABEL: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// A DNS name of one or more labels: what a ServiceAccount may be called.
const DNS_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// A label selector with valid keys, operators and values.
pub(crate) fn selector_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "type": "object",
                "description": "Labels that must be present with exactly these values.",
                "maxProperties": 32,
                "additionalProperties": { "type": "string", "maxLength": 63, "pattern": LABEL_VALUE },
                "x-kubernetes-validations": [{
                    "rule": format!("self.all(key, key.matches(r'{LABEL_KEY}'))"),
                    "message": "matchLabels: a label key is a name of 1 to 63 letters, digits, '-', '_' and '.', optionally after a DNS name and '/'",
                }],
            },
            "matchExpressions": {
                "type": "array",
                "description": "Requirements that must all hold.",
                "maxItems": 16,
                "x-kubernetes-list-type": "atomic",
                "items": expression(),
            },
        },
    })
}

/// Labels that must be present with exactly these values.
pub(crate) fn labels_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "x-kubernetes-map-type": "atomic",
        "additionalProperties": { "type": "string", "maxLength": 63, "pattern": LABEL_VALUE },
        "x-kubernetes-validations": [{
            "rule": format!("self.all(key, key.matches(r'{LABEL_KEY}'))"),
            "message": "a label key is a name of 1 to 63 letters, digits, '-', '_' and '.', optionally after a DNS name and '/'",
        }],
    })
}

/// A bounded list of requirements on labels.
pub(crate) fn requirements_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "atomic",
        "items": expression(),
    })
}

fn expression() -> serde_json::Value {
    serde_json::json!({
        "type": "object",
        "required": ["key", "operator"],
        "properties": {
            "key": {
                "type": "string",
                "description": "The label key the requirement is about.",
                "minLength": 1,
                "maxLength": 317,
                "pattern": LABEL_KEY,
            },
            "operator": {
                "type": "string",
                "description": "How the label relates to the values: In, NotIn, Exists or DoesNotExist.",
                "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
            },
            "values": {
                "type": "array",
                "description": "Label values; at least one with In and NotIn, none with Exists and DoesNotExist.",
                "maxItems": 64,
                "x-kubernetes-list-type": "atomic",
                "items": { "type": "string", "maxLength": 63, "pattern": LABEL_VALUE },
            },
        },
        "x-kubernetes-validations": [
            {
                "rule": "!(self.operator in ['In', 'NotIn']) || (has(self.values) && self.values.size() > 0)",
                "message": "values: operators In and NotIn need at least one value",
                "fieldPath": ".values",
            },
            {
                "rule": "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || self.values.size() == 0",
                "message": "values: operators Exists and DoesNotExist take no values",
                "fieldPath": ".values",
            },
        ],
    })
}

/// The name of a namespace.
pub(crate) fn namespace_name_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 63, "pattern": DNS_LABEL })
}

/// The name of a ServiceAccount.
pub(crate) fn service_account_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 253, "pattern": DNS_NAME })
}

/// The name of a Service.
pub(crate) fn service_name_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 63, "pattern": DNS_LABEL })
}

/// A bounded list of addresses, of either family.
pub(crate) fn addresses_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 8,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "string",
            "maxLength": 45,
            "x-kubernetes-validations": [{
                "rule": "isIP(self)",
                "message": "addresses: not an address, such as 169.254.20.10 or fd00::10",
            }],
        },
    })
}

/// One network in CIDR notation, of either family.
pub(crate) fn cidr_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 43,
        "x-kubernetes-validations": [{
            "rule": "isCIDR(self)",
            "message": "cidr: not a network in CIDR notation, such as 203.0.113.0/24 or 2001:db8::/32",
        }],
    })
}

/// A bounded list of networks in CIDR notation.
pub(crate) fn cidrs_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "string",
            "maxLength": 43,
            "x-kubernetes-validations": [{
                "rule": "isCIDR(self)",
                "message": "not a network in CIDR notation, such as 203.0.113.0/24 or 2001:db8::/32",
            }],
        },
    })
}
