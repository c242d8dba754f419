//! Protocol messages as JSON, in protobuf's own mapping (`camelCase` names, enums by name, bytes in base64),
//! so that `inspect` shows every field there is without a list of them here.
//!
//! In one thing it differs: 64-bit numbers are numbers, not strings.

use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value as Field,
};
use serde_json::{Map, Number, Value};

/// A message that the compiled-in protocol does not know, or not so: a defect of this program.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtoJsonError {
    #[error("the protocol description is damaged")]
    Descriptor(#[from] prost_reflect::DescriptorError),
    #[error("the protocol has no message {0}")]
    Unknown(&'static str),
    #[error("the message does not fit its description")]
    Decode(#[from] prost::DecodeError),
}

/// The JSON of `message`, whose name in package `runtime.v1` is `name`.
pub(crate) fn to_json(name: &'static str, message: &impl Message) -> Result<Value, ProtoJsonError> {
    let pool = DescriptorPool::decode(carpel_proto::FILE_DESCRIPTOR_SET)?;
    let descriptor =
        pool.get_message_by_name(&format!("runtime.v1.{name}")).ok_or(ProtoJsonError::Unknown(name))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())?;
    Ok(message_to_json(&dynamic))
}

/// Every field, those with their default too; messages that are absent are left out.
fn message_to_json(message: &DynamicMessage) -> Value {
    let descriptor = message.descriptor();
    let fields = descriptor.fields().filter(|field| !field.supports_presence() || message.has_field(field));
    let members = fields.map(|field| {
        let value = message.get_field(&field);
        (field.json_name().to_owned(), field_to_json(&field, &value))
    });
    Value::Object(members.collect())
}

fn field_to_json(field: &FieldDescriptor, value: &Field) -> Value {
    match value {
        Field::List(items) => items.iter().map(|item| scalar_to_json(&field.kind(), item)).collect(),
        Field::Map(entries) => {
            let kind = field.kind();
            let value_kind = kind.as_message().map(|entry| entry.map_entry_value_field().kind());
            let mut members = Map::new();
            for (key, item) in entries {
                let text = match key {
                    MapKey::Bool(key) => key.to_string(),
                    MapKey::I32(key) => key.to_string(),
                    MapKey::I64(key) => key.to_string(),
                    MapKey::U32(key) => key.to_string(),
                    MapKey::U64(key) => key.to_string(),
                    MapKey::String(key) => key.clone(),
                };
                members.insert(text, scalar_to_json(value_kind.as_ref().unwrap_or(&kind), item));
            }
            Value::Object(members)
        }
        scalar => scalar_to_json(&field.kind(), scalar),
    }
}

fn scalar_to_json(kind: &Kind, value: &Field) -> Value {
    match value {
        Field::Bool(value) => Value::Bool(*value),
        Field::I32(value) => Value::from(*value),
        Field::I64(value) => Value::from(*value),
        Field::U32(value) => Value::from(*value),
        Field::U64(value) => Value::from(*value),
        Field::F32(value) => float_to_json(f64::from(*value)),
        Field::F64(value) => float_to_json(*value),
        Field::String(value) => Value::from(value.as_str()),
        Field::Bytes(value) => Value::from(STANDARD.encode(value)),
        Field::EnumNumber(number) => {
            let name = kind.as_enum().and_then(|known| known.get_value(*number));
            name.map_or_else(|| Value::from(*number), |name| Value::from(name.name()))
        }
        Field::Message(message) => message_to_json(message),
        // Both are fields as a whole, never an item of one.
        Field::List(_) | Field::Map(_) => Value::Null,
    }
}

fn float_to_json(value: f64) -> Value {
    Number::from_f64(value).map_or_else(|| Value::from(value.to_string()), Value::Number)
}

#[cfg(test)]
mod tests {
    use carpel_proto::v1;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_is_there_by_its_json_name() {
        let container = v1::Container {
            id: "c1".into(),
            created_at: i64::MAX,
            state: v1::ContainerState::ContainerExited.into(),
            labels: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(
            to_json("Container", &container).unwrap(),
            json!({
                "id": "c1", "podSandboxId": "", "imageRef": "", "imageId": "",
                "state": "CONTAINER_EXITED", "createdAt": i64::MAX,
                "labels": {"a": "1", "b": "2"}, "annotations": {},
            })
        );
    }

    #[test]
    fn what_is_nested_repeated_and_unknown() {
        let status = v1::ContainerStatus {
            metadata: Some(v1::ContainerMetadata { name: "n".into(), attempt: 2 }),
            mounts: vec![v1::Mount { container_path: "/x".into(), propagation: 77, ..Default::default() }],
            ..Default::default()
        };
        let json = to_json("ContainerStatus", &status).unwrap();
        assert_eq!(json["metadata"], json!({"name": "n", "attempt": 2}));
        assert_eq!(json["mounts"][0]["containerPath"], "/x");
        assert_eq!(json["mounts"][0]["propagation"], 77, "a value of a newer protocol");
    }

    #[test]
    fn a_wrong_name_is_an_error() {
        assert!(matches!(to_json("Nonsense", &v1::Container::default()), Err(ProtoJsonError::Unknown(_))));
    }
}
