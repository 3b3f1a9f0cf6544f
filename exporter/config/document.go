package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// document is a YAML file that remembers where each key stands.
type document struct {
	file  string
	lines map[string]int // by key, as "routes[0].path"
}

// decode reads data into into, whose fields are all that the file may say.
func decode(file string, data []byte, into any) (*document, error) {
	d := &document{file: file, lines: map[string]int{}}
	parsed, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, d.yamlError(err)
	}
	for i, doc := range parsed.Docs {
		if i > 0 && doc.Body != nil {
			return nil, &Error{File: file, Line: doc.Body.GetToken().Position.Line, Err: errors.New("a second document: there can be only one")}
		}
		d.locate("", doc.Body)
	}
	if len(parsed.Docs) == 0 || parsed.Docs[0].Body == nil {
		return d, nil // an empty file says nothing
	}
	if err := yaml.UnmarshalWithOptions(data, into, yaml.Strict()); err != nil {
		return nil, d.yamlError(err)
	}
	return d, nil
}

// locate notes the line of node and of everything in it.
func (d *document) locate(key string, node ast.Node) {
	switch n := node.(type) {
	case *ast.MappingNode:
		for _, value := range n.Values {
			d.locate(key, value)
		}
	case *ast.MappingValueNode:
		under := strings.TrimPrefix(key+"."+n.Key.GetToken().Value, ".")
		d.lines[under] = n.Key.GetToken().Position.Line
		d.locate(under, n.Value)
	case *ast.SequenceNode:
		for i, value := range n.Values {
			under := fmt.Sprintf("%s[%d]", key, i)
			d.lines[under] = value.GetToken().Position.Line
			d.locate(under, value)
		}
	}
}

// errorf is an error at key or, where the file does not have it, at the key
// that it would stand under.
func (d *document) errorf(key, format string, args ...any) error {
	line := d.lines[key]
	for under := key; line == 0 && under != ""; line = d.lines[under] {
		under = under[:max(strings.LastIndexAny(under, ".["), 0)]
	}
	return &Error{File: d.file, Line: line, Key: key, Err: fmt.Errorf(format, args...)}
}

// keyAt is the deepest key on a line, for errors that know only their token.
func (d *document) keyAt(line int) string {
	var found string
	for key, at := range d.lines {
		if at == line && (len(key) > len(found) || len(key) == len(found) && key < found) {
			found = key
		}
	}
	return found
}

// yamlError says in words of the file, not of Go, what the YAML library found.
func (d *document) yamlError(err error) error {
	var found yaml.Error
	if !errors.As(err, &found) {
		return &Error{File: d.file, Err: err}
	}
	at := &Error{File: d.file, Err: errors.New(found.GetMessage())}
	if t := found.GetToken(); t != nil {
		at.Line = t.Position.Line
	}
	var wrongType *yaml.TypeError
	var wrongNode *yaml.UnexpectedNodeTypeError
	var unknown *yaml.UnknownFieldError
	var overflow *yaml.OverflowError
	switch {
	case errors.As(err, &wrongType):
		at.Key = d.keyAt(at.Line)
		at.Err = fmt.Errorf("must be %s", kindInWords(wrongType.DstType))
	case errors.As(err, &overflow):
		at.Key = d.keyAt(at.Line)
		at.Err = fmt.Errorf("is out of range")
	case errors.As(err, &wrongNode):
		at.Key = d.keyAt(at.Line)
	case errors.As(err, &unknown):
		at.Key = d.keyOf(unknown.Token)
		at.Err = errors.New("there is no such key")
	}
	return at
}

// keyOf is the key whose name is the token.
func (d *document) keyOf(t *token.Token) string {
	for key, line := range d.lines {
		if line == t.Position.Line && (key == t.Value || strings.HasSuffix(key, "."+t.Value)) {
			return key
		}
	}
	return t.Value
}

func kindInWords(t reflect.Type) string {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil {
		return "something else"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a list"
	default:
		return "a mapping of keys"
	}
}
