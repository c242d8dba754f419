// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// facts maps a subject ("field runtime.v1.PodIP.ip") to what a peer can see of it ("number 1, string, …").
// Two protocols are the same if these maps are equal.
type facts map[string]string

type counts struct{ messages, fields, values, methods int }

func factsOf(file protoreflect.FileDescriptor) facts {
	found := facts{}
	found.addFile(file)
	return found
}

func countsOf(file protoreflect.FileDescriptor) counts {
	var counted counts
	for subject := range factsOf(file) {
		switch kind, _, _ := strings.Cut(subject, " "); kind {
		case "message":
			counted.messages++
		case "field":
			counted.fields++
		case "value":
			counted.values++
		case "method":
			counted.methods++
		}
	}
	return counted
}

// differences names each subject that only one side has or that the sides tell differently, sorted.
func differences(ours, theirs facts) []string {
	var found []string
	for subject, fact := range theirs {
		switch own, ok := ours[subject]; {
		case !ok:
			found = append(found, fmt.Sprintf("%s: missing here, cri-api has %s", subject, fact))
		case own != fact:
			found = append(found, fmt.Sprintf("%s: here %s, in cri-api %s", subject, own, fact))
		}
	}
	for subject, fact := range ours {
		if _, ok := theirs[subject]; !ok {
			found = append(found, fmt.Sprintf("%s: not in cri-api, here %s", subject, fact))
		}
	}
	slices.Sort(found)
	return found
}

func (f facts) addFile(file protoreflect.FileDescriptor) {
	for i := range file.Services().Len() {
		f.addService(file.Services().Get(i))
	}
	for i := range file.Messages().Len() {
		f.addMessage(file.Messages().Get(i))
	}
	for i := range file.Enums().Len() {
		f.addEnum(file.Enums().Get(i), file.Syntax())
	}
}

func (f facts) addService(service protoreflect.ServiceDescriptor) {
	f["service "+string(service.FullName())] = fmt.Sprintf("%d methods", service.Methods().Len())
	for i := range service.Methods().Len() {
		m := service.Methods().Get(i)
		f["method "+string(m.FullName())] = fmt.Sprintf("(%s%s) returns (%s%s)",
			word(m.IsStreamingClient(), "stream "), m.Input().FullName(),
			word(m.IsStreamingServer(), "stream "), m.Output().FullName())
	}
}

// addMessage also takes nested messages and enums; the entry message of a map is told with its field.
func (f facts) addMessage(message protoreflect.MessageDescriptor) {
	if message.IsMapEntry() {
		return
	}
	f["message "+string(message.FullName())] = fmt.Sprintf("%s, %d fields, reserved %v %v", message.ParentFile().Syntax(),
		message.Fields().Len(), ranges(message), names(message))
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		f["field "+string(field.FullName())] = describe(field)
	}
	for i := range message.Messages().Len() {
		f.addMessage(message.Messages().Get(i))
	}
	for i := range message.Enums().Len() {
		f.addEnum(message.Enums().Get(i), message.ParentFile().Syntax())
	}
}

func (f facts) addEnum(enum protoreflect.EnumDescriptor, syntax protoreflect.Syntax) {
	f["enum "+string(enum.FullName())] = fmt.Sprintf("%s, %d values", syntax, enum.Values().Len())
	for i := range enum.Values().Len() {
		value := enum.Values().Get(i)
		// A value's full name leaves its enum out.
		f[fmt.Sprintf("value %s.%s", enum.FullName(), value.Name())] = fmt.Sprintf("number %d", value.Number())
	}
}

// describe tells all that the wire, the JSON form and a careful logger see of a field.
func describe(field protoreflect.FieldDescriptor) string {
	shape := field.Cardinality().String() + " " + typeName(field)
	if field.IsMap() {
		shape = fmt.Sprintf("map<%s, %s>", typeName(field.MapKey()), typeName(field.MapValue()))
	}
	told := []string{fmt.Sprintf("number %d", field.Number()), shape, "json " + field.JSONName()}
	if oneof := field.ContainingOneof(); oneof != nil {
		told = append(told, "in oneof "+string(oneof.Name()))
	}
	if field.HasPresence() {
		told = append(told, "presence")
	}
	if field.IsPacked() {
		told = append(told, "packed")
	}
	options, _ := field.Options().(*descriptorpb.FieldOptions)
	if options.GetDeprecated() {
		told = append(told, "deprecated")
	}
	if options.GetDebugRedact() {
		told = append(told, "debug_redact")
	}
	return strings.Join(told, ", ")
}

func typeName(field protoreflect.FieldDescriptor) string {
	switch {
	case field.Message() != nil:
		return string(field.Message().FullName())
	case field.Enum() != nil:
		return "enum " + string(field.Enum().FullName())
	default:
		return field.Kind().String()
	}
}

// ranges lists a message's reserved numbers as [first, last+1) pairs.
func ranges(message protoreflect.MessageDescriptor) [][2]protoreflect.FieldNumber {
	var found [][2]protoreflect.FieldNumber
	for i := range message.ReservedRanges().Len() {
		found = append(found, message.ReservedRanges().Get(i))
	}
	return found
}

func word(said bool, text string) string {
	if said {
		return text
	}
	return ""
}

func names(message protoreflect.MessageDescriptor) []protoreflect.Name {
	var found []protoreflect.Name
	for i := range message.ReservedNames().Len() {
		found = append(found, message.ReservedNames().Get(i))
	}
	return found
}
